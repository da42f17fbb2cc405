// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/front_end.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <clang/Basic/Diagnostic.h>
#include <clang/Basic/FileManager.h>
#include <clang/CodeGen/CodeGenAction.h>
#include <clang/Frontend/CompilerInstance.h>
#include <clang/Frontend/CompilerInvocation.h>
#include <clang/Frontend/FrontendActions.h>
#include <clang/Frontend/TextDiagnosticPrinter.h>
#include <clang/Frontend/Utils.h>
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/VirtualFileSystem.h>
#include <llvm/Support/raw_ostream.h>
#pragma GCC diagnostic pop

#include <fmt/format.h>

#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "compiler/service/language.h"
#include "compiler/service/module.h"
#include "compiler/service/pocl_version.h"
#include "compiler/service/precompiled.h"
#include "compiler/service/prefix_text.h"

namespace mirrorcl::compiler {
namespace {

constexpr const char* kSourceName = "<program source>";
constexpr const char* kOwnFolder = "/mirrorcl-internal/";  // exists in the compiler's file system only
constexpr const char* kPrefixPath = "/mirrorcl-internal/prefix.h";
constexpr const char* kPrecompiledPath = "/mirrorcl-internal/prefix.pch";

// Notes whether the program reads files that are not part of the compiler.
class UserFiles : public clang::DependencyCollector {
 public:
  bool any() const { return any_; }
  bool sawDependency(llvm::StringRef name, bool, bool, bool, bool) override {
    if (name != kSourceName && !name.startswith(kOwnFolder) && !name.startswith(pocl::kHeaders)) any_ = true;
    return false;
  }
  bool needSystemDependencies() override { return true; }

 private:
  bool any_ = false;
};

// Plain text, with the names and lines that #line gives. Owned by who takes it.
clang::DiagnosticOptions* diagnostic_options() {
  auto* options = new clang::DiagnosticOptions();
  options->ShowPresumedLoc = 1;
  return options;
}

llvm::MemoryBufferRef buffer_of(std::string_view text, const char* name) {
  return {llvm::StringRef(text.data(), text.size()), name};
}

class ClangFrontEnd {
 public:
  ClangFrontEnd(std::string target_cpu, std::string cache_dir, std::string scratch_dir)
      : target_cpu_(std::move(target_cpu)), cache_dir_(std::move(cache_dir)), scratch_dir_(std::move(scratch_dir)) {}

  FrontEndOutput compile(const std::string& source, const BuildOptions& options) {
    FrontEndOutput output;
    std::vector<std::string> arguments = language_arguments(options, target_cpu_);
    const std::string& precompiled = precompiled_prefix(arguments);
    if (precompiled.empty()) {
      arguments.insert(arguments.end(), {"-include", kPrefixPath});
    } else {
      arguments.insert(arguments.end(), {"-include-pch", kPrecompiledPath});
    }
    for (std::string& argument : program_arguments(options)) arguments.push_back(std::move(argument));
    arguments.emplace_back("-emit-llvm-only");

    clang::CompilerInstance compiler;
    llvm::raw_string_ostream log(output.log);
    clang::TextDiagnosticPrinter printer(log, diagnostic_options());
    if (!prepare(compiler, arguments, printer, log, precompiled)) return output;
    auto files = std::make_shared<UserFiles>();
    compiler.addDependencyCollector(files);
    auto& inputs = compiler.getFrontendOpts().Inputs;
    inputs.clear();
    inputs.emplace_back(buffer_of(source, kSourceName), clang::InputKind(clang::Language::OpenCL));

    llvm::LLVMContext context;
    clang::EmitLLVMOnlyAction action(&context);
    output.ok = compiler.ExecuteAction(action);
    output.used_files = files->any();
    if (!output.ok) return output;
    std::unique_ptr<llvm::Module> module = action.takeModule();
    if (module == nullptr) {
      output.ok = false;
      return output;
    }
    resolve_generic_builtins(*module);
    output.kernels = describe_kernels(*module);
    output.global_variables_size = global_variables_size(*module);
    llvm::SmallVector<char, 0> bitcode;
    llvm::raw_svector_ostream stream(bitcode);
    llvm::WriteBitcodeToFile(*module, stream);
    auto bytes = std::as_bytes(std::span(bitcode.data(), bitcode.size()));
    output.bitcode.assign(bytes.begin(), bytes.end());
    return output;
  }

 private:
  // Everything but the input.
  bool prepare(clang::CompilerInstance& compiler, const std::vector<std::string>& arguments,
               clang::TextDiagnosticPrinter& printer, llvm::raw_ostream& log, const std::string& precompiled) {
    std::vector<const char*> words;
    words.reserve(arguments.size());
    for (const std::string& argument : arguments) words.push_back(argument.c_str());
    clang::DiagnosticsEngine parsing(new clang::DiagnosticIDs(), new clang::DiagnosticOptions(), &printer,
                                     /*ShouldOwnClient=*/false);
    compiler.setVerboseOutputStream(log);
    if (!clang::CompilerInvocation::CreateFromArgs(compiler.getInvocation(), words, parsing)) return false;
    // Only now: -w and -Werror are among the arguments.
    compiler.createDiagnostics(&printer, /*ShouldOwnClient=*/false);

    auto own = llvm::makeIntrusiveRefCnt<llvm::vfs::InMemoryFileSystem>();
    own->addFileNoOwn(kPrefixPath, 0, buffer_of(kPrefixText, kPrefixPath));
    if (!precompiled.empty()) own->addFileNoOwn(kPrecompiledPath, 0, buffer_of(precompiled, kPrecompiledPath));
    auto files = llvm::makeIntrusiveRefCnt<llvm::vfs::OverlayFileSystem>(llvm::vfs::getRealFileSystem());
    files->pushOverlay(own);
    compiler.createFileManager(files);
    return true;
  }

  // The prefix header precompiled for these language options: from memory, from the disk cache, or made now. Empty if
  // it cannot be had; the header is parsed then.
  const std::string& precompiled_prefix(const std::vector<std::string>& arguments) {
    std::string key = precompiled_key(arguments);
    auto [entry, is_new] = precompiled_.try_emplace(key);
    if (!is_new) return entry->second;
    entry->second = load_precompiled(cache_dir_, key);
    if (entry->second.empty()) {
      entry->second = precompile(arguments);
      if (!entry->second.empty()) store_precompiled(cache_dir_, key, entry->second);
    }
    return entry->second;
  }

  std::string precompile(std::vector<std::string> arguments) {
    std::string path = scratch_dir_ + "/prefix.pch";
    arguments.insert(arguments.end(), {"-emit-pch", "-o", path});
    clang::CompilerInstance compiler;
    std::string log;
    llvm::raw_string_ostream stream(log);
    clang::TextDiagnosticPrinter printer(stream, diagnostic_options());
    if (!prepare(compiler, arguments, printer, stream, {})) return {};
    auto& inputs = compiler.getFrontendOpts().Inputs;
    inputs.clear();
    inputs.emplace_back(kPrefixPath, clang::InputKind(clang::Language::OpenCL).getHeader());
    clang::GeneratePCHAction action;
    if (!compiler.ExecuteAction(action)) return {};
    std::string result = read_file(path);
    remove_file(path);
    return result;
  }

  std::string target_cpu_;
  std::string cache_dir_;
  std::string scratch_dir_;
  std::map<std::string, std::string> precompiled_;  // by key
};

}  // namespace

struct FrontEnd::Implementation {
  ClangFrontEnd clang;
};

FrontEnd::FrontEnd() = default;
FrontEnd::~FrontEnd() = default;

std::unique_ptr<FrontEnd> FrontEnd::create(std::string target_cpu, std::string cache_dir, std::string scratch_dir) {
  std::unique_ptr<FrontEnd> front_end(new FrontEnd());
  front_end->implementation_.reset(
      new Implementation{{std::move(target_cpu), std::move(cache_dir), std::move(scratch_dir)}});
  return front_end;
}

FrontEndOutput FrontEnd::compile(const std::string& source, const BuildOptions& options) {
  return implementation_->clang.compile(source, options);
}

}  // namespace mirrorcl::compiler
