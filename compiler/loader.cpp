// SPDX-License-Identifier: Apache-2.0
// A kernel's shared object is a file made by a linker we trust, but it has passed through a disk cache: every offset,
// size and index in it is checked before use, so that a damaged one is an error and never a wild read or write.
#include "compiler/loader.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

namespace mirrorcl::compiler {
namespace {

constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kLargestImage = std::uint64_t{1} << 30;

tl::unexpected<Error> malformed(std::string_view what) {
  return fail(ErrorCode::kInvalidArgument, fmt::format("malformed kernel object: {}", what));
}

class ElfLoader {
 public:
  ElfLoader(std::span<const std::byte> elf, const CodeSpace& space) : elf_(elf), space_(space) {}
  ~ElfLoader() {
    if (memory_ != nullptr) space_.free(memory_);
  }
  ElfLoader(const ElfLoader&) = delete;
  ElfLoader& operator=(const ElfLoader&) = delete;

  // Maps, relocates and finds `symbol`.
  Result<std::uint64_t> load(const std::string& symbol) {
    if (auto done = read_headers(); !done) return tl::unexpected(done.error());
    if (auto done = place_segments(); !done) return tl::unexpected(done.error());
    if (auto done = read_dynamic(); !done) return tl::unexpected(done.error());
    if (auto done = relocate(relocations_, relocations_size_); !done) return tl::unexpected(done.error());
    if (auto done = relocate(plt_relocations_, plt_relocations_size_); !done) return tl::unexpected(done.error());
    auto entry = find_entry(symbol);
    if (!entry) return entry;
    if (auto done = seal(); !done) return tl::unexpected(done.error());
    return entry;
  }

  void* release() { return std::exchange(memory_, nullptr); }
  std::uint64_t size() const { return size_; }

 private:
  // A copy of a structure of the file.
  template <typename T>
  bool read_file(std::uint64_t offset, T* value) const {
    if (offset > elf_.size() || elf_.size() - offset < sizeof(T)) return false;
    std::memcpy(value, elf_.data() + offset, sizeof(T));
    return true;
  }

  // Where image address `address` lies in memory, if `bytes` from there belong to the image.
  std::byte* at(std::uint64_t address, std::uint64_t bytes) const {
    if (address < lowest_ || address - lowest_ > size_ || size_ - (address - lowest_) < bytes) return nullptr;
    return static_cast<std::byte*>(memory_) + (address - lowest_);
  }
  template <typename T>
  bool read_image(std::uint64_t address, T* value) const {
    const std::byte* from = at(address, sizeof(T));
    if (from == nullptr) return false;
    std::memcpy(value, from, sizeof(T));
    return true;
  }
  // The address at run time of image address `address`.
  std::uint64_t runtime(std::uint64_t address) const {
    return reinterpret_cast<std::uint64_t>(memory_) + address - lowest_;
  }

  Result<void> read_headers() {
    Elf64_Ehdr header{};
    if (!read_file(0, &header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return malformed("not ELF");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64 || header.e_type != ET_DYN) {
      return malformed("not an x86-64 shared object");
    }
    if (header.e_phentsize != sizeof(Elf64_Phdr)) return malformed("program header size");
    std::uint64_t highest = 0;
    lowest_ = UINT64_MAX;
    for (unsigned i = 0; i < header.e_phnum; ++i) {
      Elf64_Phdr segment{};
      if (header.e_phoff > elf_.size() || !read_file(header.e_phoff + i * sizeof segment, &segment)) {
        return malformed("program headers beyond the end");
      }
      if (segment.p_type == PT_DYNAMIC) dynamic_ = segment;
      if (segment.p_type == PT_TLS) return fail(ErrorCode::kNotSupported, "kernel object has thread-local variables");
      if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
      if (segment.p_filesz > segment.p_memsz || segment.p_offset > elf_.size() ||
          elf_.size() - segment.p_offset < segment.p_filesz) {
        return malformed("a segment beyond the end");
      }
      if (segment.p_vaddr > kLargestImage || segment.p_memsz > kLargestImage) return malformed("a segment too large");
      lowest_ = std::min(lowest_, segment.p_vaddr / kPageSize * kPageSize);
      highest = std::max(highest, segment.p_vaddr + segment.p_memsz);
      segments_.push_back(segment);
    }
    if (segments_.empty()) return malformed("no segments");
    if (dynamic_.p_type != PT_DYNAMIC) return malformed("no dynamic section");
    size_ = (highest - lowest_ + kPageSize - 1) / kPageSize * kPageSize;
    return {};
  }

  Result<void> place_segments() {
    memory_ = space_.allocate(size_);
    if (memory_ == nullptr) {
      return fail(ErrorCode::kOutOfDeviceMemory, fmt::format("no code space for a kernel of {} bytes", size_));
    }
    std::memset(memory_, 0, size_);
    for (const Elf64_Phdr& segment : segments_) {
      std::memcpy(at(segment.p_vaddr, segment.p_memsz), elf_.data() + segment.p_offset, segment.p_filesz);
    }
    return {};
  }

  Result<void> read_dynamic() {
    std::uint64_t hash = 0;
    std::uint64_t gnu_hash = 0;
    for (std::uint64_t offset = 0;; offset += sizeof(Elf64_Dyn)) {
      Elf64_Dyn entry{};
      if (offset >= dynamic_.p_memsz || !read_image(dynamic_.p_vaddr + offset, &entry))
        return malformed("dynamic section");
      if (entry.d_tag == DT_NULL) break;
      switch (entry.d_tag) {
        case DT_SYMTAB:
          symbols_ = entry.d_un.d_ptr;
          break;
        case DT_STRTAB:
          strings_ = entry.d_un.d_ptr;
          break;
        case DT_STRSZ:
          strings_size_ = entry.d_un.d_val;
          break;
        case DT_HASH:
          hash = entry.d_un.d_ptr;
          break;
        case DT_GNU_HASH:
          gnu_hash = entry.d_un.d_ptr;
          break;
        case DT_RELA:
          relocations_ = entry.d_un.d_ptr;
          break;
        case DT_RELASZ:
          relocations_size_ = entry.d_un.d_val;
          break;
        case DT_JMPREL:
          plt_relocations_ = entry.d_un.d_ptr;
          break;
        case DT_PLTRELSZ:
          plt_relocations_size_ = entry.d_un.d_val;
          break;
        case DT_REL:
        case DT_RELR:
          return fail(ErrorCode::kNotSupported, "kernel object has relocations of another form");
        default:
          break;  // names of libraries, initialisers of an empty crt: nothing that a kernel needs
      }
    }
    if (symbols_ == 0 || strings_ == 0 || at(strings_, strings_size_) == nullptr) return malformed("no symbols");
    return count_symbols(hash, gnu_hash);
  }

  // The symbol table has no size of its own; the hash tables know it.
  Result<void> count_symbols(std::uint64_t hash, std::uint64_t gnu_hash) {
    if (hash != 0) {
      std::uint32_t counts[2];  // buckets, chains; there is one chain per symbol
      if (!read_image(hash, &counts)) return malformed("hash table");
      symbol_count_ = counts[1];
    } else if (gnu_hash != 0) {
      std::uint32_t header[4];  // buckets, first hashed symbol, bloom words, bloom shift
      if (!read_image(gnu_hash, &header)) return malformed("hash table");
      std::uint64_t buckets = gnu_hash + sizeof header + std::uint64_t{8} * header[2];
      std::uint64_t chains = buckets + std::uint64_t{4} * header[0];
      std::uint64_t last = 0;
      for (std::uint32_t i = 0; i < header[0]; ++i) {
        std::uint32_t first = 0;
        if (!read_image(buckets + std::uint64_t{4} * i, &first)) return malformed("hash table");
        last = std::max<std::uint64_t>(last, first);
      }
      symbol_count_ = header[1];
      if (last >= header[1] && last != 0) {
        std::uint32_t word = 0;
        do {
          if (!read_image(chains + 4 * (last - header[1]), &word)) return malformed("hash table");
          ++last;
        } while ((word & 1) == 0);
        symbol_count_ = last;
      }
    } else {
      return malformed("no hash table");
    }
    if (symbol_count_ > size_ / sizeof(Elf64_Sym) || at(symbols_, symbol_count_ * sizeof(Elf64_Sym)) == nullptr) {
      return malformed("symbol table");
    }
    return {};
  }

  Result<std::string_view> name_of(const Elf64_Sym& symbol) const {
    if (symbol.st_name >= strings_size_) return malformed("a symbol's name");
    const char* start = reinterpret_cast<const char*>(at(strings_, strings_size_)) + symbol.st_name;
    std::size_t longest = strings_size_ - symbol.st_name;
    std::size_t length = strnlen(start, longest);
    if (length == longest) return malformed("a symbol's name");
    return std::string_view(start, length);
  }

  // The run-time address of symbol `index`; 0 for an undefined weak one.
  Result<std::uint64_t> resolve(std::uint64_t index) const {
    Elf64_Sym symbol{};
    if (index == 0) return 0;
    if (index >= symbol_count_ || !read_image(symbols_ + index * sizeof symbol, &symbol))
      return malformed("symbol index");
    auto name = name_of(symbol);
    if (!name) return tl::unexpected(name.error());
    if (symbol.st_shndx != SHN_UNDEF) {
      if (ELF64_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC) {
        return fail(ErrorCode::kNotSupported, fmt::format("kernel object defines {} indirectly", *name));
      }
      if (symbol.st_shndx == SHN_ABS) return symbol.st_value;
      if (at(symbol.st_value, 0) == nullptr) return malformed("a symbol's value");
      return runtime(symbol.st_value);
    }
    if (std::uint64_t address = space_.find_symbol(std::string(*name).c_str()); address != 0) return address;
    if (ELF64_ST_BIND(symbol.st_info) == STB_WEAK) return 0;
    return fail(ErrorCode::kNotSupported, fmt::format("the kernel calls {}, which the device does not have", *name));
  }

  Result<void> relocate(std::uint64_t table, std::uint64_t bytes) {
    if (bytes % sizeof(Elf64_Rela) != 0 || (bytes != 0 && at(table, bytes) == nullptr)) return malformed("relocations");
    for (std::uint64_t offset = 0; offset < bytes; offset += sizeof(Elf64_Rela)) {
      Elf64_Rela relocation{};
      if (!read_image(table + offset, &relocation)) return malformed("relocations");
      auto type = static_cast<std::uint32_t>(ELF64_R_TYPE(relocation.r_info));
      auto addend = static_cast<std::uint64_t>(relocation.r_addend);
      std::uint64_t value = 0;
      if (type == R_X86_64_NONE) continue;
      if (type == R_X86_64_RELATIVE) {
        value = runtime(addend);
      } else if (type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT || type == R_X86_64_64) {
        auto symbol = resolve(ELF64_R_SYM(relocation.r_info));
        if (!symbol) return tl::unexpected(symbol.error());
        value = *symbol + (type == R_X86_64_64 ? addend : 0);
      } else {
        return fail(ErrorCode::kNotSupported, fmt::format("kernel object has a relocation of type {}", type));
      }
      std::byte* place = at(relocation.r_offset, sizeof value);
      if (place == nullptr) return malformed("a relocation beyond the end");
      std::memcpy(place, &value, sizeof value);
    }
    return {};
  }

  Result<std::uint64_t> find_entry(const std::string& wanted) const {
    for (std::uint64_t index = 1; index < symbol_count_; ++index) {
      Elf64_Sym symbol{};
      if (!read_image(symbols_ + index * sizeof symbol, &symbol)) return malformed("symbol table");
      auto name = name_of(symbol);
      if (!name) return tl::unexpected(name.error());
      if (symbol.st_shndx == SHN_UNDEF || *name != wanted) continue;
      if (at(symbol.st_value, 1) == nullptr) return malformed("the entry's address");
      return runtime(symbol.st_value);
    }
    return malformed(fmt::format("no function {}", wanted));
  }

  // Whether the pages of two segments overlap.
  static bool share_a_page(const Elf64_Phdr& a, const Elf64_Phdr& b) {
    return a.p_vaddr / kPageSize <= (b.p_vaddr + b.p_memsz - 1) / kPageSize &&
           b.p_vaddr / kPageSize <= (a.p_vaddr + a.p_memsz - 1) / kPageSize;
  }

  // Makes the pages of instructions executable, which a kernel's variables must then not share.
  Result<void> seal() const {
    if (!space_.make_executable) return {};
    for (const Elf64_Phdr& code : segments_) {
      if ((code.p_flags & PF_X) == 0) continue;
      for (const Elf64_Phdr& data : segments_) {
        if ((data.p_flags & PF_W) != 0 && share_a_page(code, data)) {
          return fail(ErrorCode::kNotSupported, "kernel object has instructions and variables in one page");
        }
      }
      const std::uint64_t first_page = code.p_vaddr / kPageSize * kPageSize;
      const std::uint64_t bytes = (code.p_vaddr + code.p_memsz - first_page + kPageSize - 1) / kPageSize * kPageSize;
      if (auto done = space_.make_executable(at(first_page, 0), bytes); !done) return done;
    }
    return {};
  }

  std::span<const std::byte> elf_;
  const CodeSpace& space_;
  std::vector<Elf64_Phdr> segments_;
  Elf64_Phdr dynamic_{};
  void* memory_ = nullptr;
  std::uint64_t lowest_ = 0;  // image address of memory_
  std::uint64_t size_ = 0;
  // Image addresses, from the dynamic section.
  std::uint64_t symbols_ = 0;
  std::uint64_t symbol_count_ = 0;
  std::uint64_t strings_ = 0;
  std::uint64_t strings_size_ = 0;
  std::uint64_t relocations_ = 0;
  std::uint64_t relocations_size_ = 0;
  std::uint64_t plt_relocations_ = 0;
  std::uint64_t plt_relocations_size_ = 0;
};

class KernelInCodeSpace final : public LoadedKernel {
 public:
  KernelInCodeSpace(void* memory, std::uint64_t size, std::uint64_t entry, std::function<void(void*)> free)
      : memory_(memory), size_(size), entry_(entry), free_(std::move(free)) {}
  ~KernelInCodeSpace() override { free_(memory_); }
  std::uint64_t entry() const noexcept override { return entry_; }
  std::size_t code_bytes() const noexcept override { return size_; }

 private:
  void* memory_;
  std::uint64_t size_;
  std::uint64_t entry_;
  std::function<void(void*)> free_;
};

}  // namespace

Result<std::unique_ptr<LoadedKernel>> load_kernel(std::span<const std::byte> elf, const std::string& kernel,
                                                  const CodeSpace& space) {
  ElfLoader loader(elf, space);
  auto entry = loader.load(fmt::format("_pocl_kernel_{}_workgroup", kernel));
  if (!entry) return tl::unexpected(entry.error());
  return std::make_unique<KernelInCodeSpace>(loader.release(), loader.size(), *entry, space.free);
}

}  // namespace mirrorcl::compiler
