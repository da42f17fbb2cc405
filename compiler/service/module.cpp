// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/module.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/DataLayout.h>
#include <llvm/IR/Function.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/Metadata.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/raw_ostream.h>
#pragma GCC diagnostic pop

#include <CL/cl.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <span>
#include <string_view>

#include "compiler/service/front_end.h"
#include "compiler/service/pocl_version.h"
#include "device/window.h"

namespace mirrorcl::compiler {
namespace {

std::string_view view(llvm::StringRef text) {
  return {text.data(), text.size()};
}

// Replaces the pointers of a mangled builtin by those of the overload in the kernel library: (global or local object,
// private expected value) for atomics, private for everything else.
std::string library_name(std::string_view mangled) {
  const bool atomic = mangled.find("_cl_atomic_") != std::string_view::npos;
  std::string result;
  bool first = true;
  for (std::size_t i = 0; i < mangled.size();) {
    std::string_view rest = mangled.substr(i);
    std::string_view found;
    for (std::string_view pointer : {pocl::kGenericPointer, pocl::kGlobalPointer, pocl::kLocalPointer}) {
      if (rest.starts_with(pointer)) found = pointer;
    }
    if (found.empty()) {
      result += mangled[i++];
      continue;
    }
    if (atomic) {
      result += !first ? pocl::kPrivatePointer : found == pocl::kGenericPointer ? pocl::kGlobalPointer : found;
    } else {
      result += found == pocl::kGenericPointer ? pocl::kPrivatePointer : found;
    }
    first = false;
    i += found.size();
  }
  return result;
}

bool is_kernel(const llvm::Function& function) {
  return !function.isDeclaration() && function.getMetadata("kernel_arg_addr_space") != nullptr;
}

const llvm::MDNode* operands_of(const llvm::Function& kernel, const char* name) {
  const llvm::MDNode* node = kernel.getMetadata(name);
  return node != nullptr && node->getNumOperands() == kernel.arg_size() ? node : nullptr;
}

std::string text_operand(const llvm::MDNode* node, unsigned index) {
  if (node == nullptr) return {};
  const auto* text = llvm::dyn_cast<llvm::MDString>(node->getOperand(index));
  return text != nullptr ? text->getString().str() : std::string();
}

std::uint64_t number_operand(const llvm::MDNode* node, unsigned index) {
  if (node == nullptr) return 0;
  const auto* constant = llvm::mdconst::dyn_extract<llvm::ConstantInt>(node->getOperand(index));
  return constant != nullptr ? constant->getLimitedValue() : 0;
}

std::uint32_t address_qualifier(std::uint64_t spir_address_space) {
  switch (spir_address_space) {
    case 1:
      return CL_KERNEL_ARG_ADDRESS_GLOBAL;
    case 2:
      return CL_KERNEL_ARG_ADDRESS_CONSTANT;
    case 3:
      return CL_KERNEL_ARG_ADDRESS_LOCAL;
    default:
      return CL_KERNEL_ARG_ADDRESS_PRIVATE;
  }
}

std::uint32_t access_qualifier(const std::string& text) {
  if (text == "read_only") return CL_KERNEL_ARG_ACCESS_READ_ONLY;
  if (text == "write_only") return CL_KERNEL_ARG_ACCESS_WRITE_ONLY;
  if (text == "read_write") return CL_KERNEL_ARG_ACCESS_READ_WRITE;
  return CL_KERNEL_ARG_ACCESS_NONE;
}

std::uint32_t type_qualifier(const std::string& text) {
  std::uint32_t bits = CL_KERNEL_ARG_TYPE_NONE;
  if (text.find("const") != std::string::npos) bits |= CL_KERNEL_ARG_TYPE_CONST;
  if (text.find("restrict") != std::string::npos) bits |= CL_KERNEL_ARG_TYPE_RESTRICT;
  if (text.find("volatile") != std::string::npos) bits |= CL_KERNEL_ARG_TYPE_VOLATILE;
  if (text.find("pipe") != std::string::npos) bits |= CL_KERNEL_ARG_TYPE_PIPE;
  return bits;
}

KernelArgument describe_argument(const llvm::Function& kernel, unsigned index) {
  using Kind = KernelArgument::Kind;
  const llvm::Argument& value = *kernel.getArg(index);
  const llvm::DataLayout& layout = kernel.getParent()->getDataLayout();
  std::string base_type = text_operand(operands_of(kernel, "kernel_arg_base_type"), index);

  KernelArgument argument;
  argument.name = text_operand(operands_of(kernel, "kernel_arg_name"), index);
  argument.type_name = text_operand(operands_of(kernel, "kernel_arg_type"), index);
  argument.address_qualifier = address_qualifier(number_operand(operands_of(kernel, "kernel_arg_addr_space"), index));
  argument.access_qualifier = access_qualifier(text_operand(operands_of(kernel, "kernel_arg_access_qual"), index));
  argument.type_qualifier = type_qualifier(text_operand(operands_of(kernel, "kernel_arg_type_qual"), index));
  argument.size = sizeof(void*);
  if ((argument.type_qualifier & CL_KERNEL_ARG_TYPE_PIPE) != 0) {
    argument.kind = Kind::kPipe;
  } else if (argument.access_qualifier != CL_KERNEL_ARG_ACCESS_NONE) {
    argument.kind = Kind::kImage;
  } else if (base_type == "sampler_t") {
    argument.kind = Kind::kSampler;
  } else if (base_type == "queue_t") {
    argument.kind = Kind::kQueue;
  } else if (argument.address_qualifier == CL_KERNEL_ARG_ADDRESS_LOCAL) {
    argument.kind = Kind::kLocal;
  } else if (argument.address_qualifier != CL_KERNEL_ARG_ADDRESS_PRIVATE) {
    argument.kind = Kind::kPointer;
  } else {
    argument.kind = Kind::kValue;
    llvm::Type* type = value.hasByValAttr() ? value.getParamByValType() : value.getType();
    argument.size = static_cast<std::uint32_t>(layout.getTypeAllocSize(type).getFixedSize());
  }
  return argument;
}

// "uint4" of vec_type_hint's metadata: a value of the type, and whether it is signed.
std::string hinted_type(const llvm::MDNode* node) {
  const auto* value = llvm::dyn_cast<llvm::ValueAsMetadata>(node->getOperand(0));
  if (value == nullptr) return {};
  llvm::Type* type = value->getType();
  std::string width;
  if (const auto* vector = llvm::dyn_cast<llvm::FixedVectorType>(type)) {
    width = std::to_string(vector->getNumElements());
    type = vector->getElementType();
  }
  std::string element;
  if (type->isHalfTy()) {
    element = "half";
  } else if (type->isFloatTy()) {
    element = "float";
  } else if (type->isDoubleTy()) {
    element = "double";
  } else if (type->isIntegerTy()) {
    switch (type->getIntegerBitWidth()) {
      case 8:
        element = "char";
        break;
      case 16:
        element = "short";
        break;
      case 32:
        element = "int";
        break;
      default:
        element = "long";
        break;
    }
    if (number_operand(node, 1) == 0) element = "u" + element;
  }
  return element + width;
}

std::array<std::uint64_t, 3> sizes_of(const llvm::MDNode* node) {
  if (node == nullptr || node->getNumOperands() != 3) return {};
  return {number_operand(node, 0), number_operand(node, 1), number_operand(node, 2)};
}

void append_attribute(std::string& attributes, const std::string& attribute) {
  if (!attributes.empty()) attributes += ' ';
  attributes += attribute;
}

// Whether `function` can come to call printf. A function that is called through a pointer, or whose address is taken,
// cannot be in OpenCL C, blocks excepted: a call of an unknown function counts as one.
bool reaches_printf(const llvm::Function& function, std::set<const llvm::Function*>& seen) {
  if (!seen.insert(&function).second) return false;
  if (view(function.getName()) == "printf") return true;
  for (const llvm::Instruction& instruction : llvm::instructions(function)) {
    const auto* call = llvm::dyn_cast<llvm::CallBase>(&instruction);
    if (call == nullptr || call->isInlineAsm()) continue;
    const auto* callee = llvm::dyn_cast<llvm::Function>(call->getCalledOperand()->stripPointerCastsAndAliases());
    if (callee == nullptr || reaches_printf(*callee, seen)) return true;
  }
  return false;
}

// PoCL's headers rename builtin functions ("#define step _cl_step"), and with them a kernel of the same name.
std::string source_name(const std::string& symbol) {
  static constexpr std::string_view kPrefix = "_cl_";
  static const std::set<std::string> renamed = [] {
    std::set<std::string> names;
    std::ifstream header(std::string(pocl::kHeaders) + "/_builtin_renames.h");
    std::string word;
    while (header >> word) {
      if (word.starts_with(kPrefix)) names.insert(word);
    }
    return names;
  }();
  return renamed.contains(symbol) ? symbol.substr(kPrefix.size()) : symbol;
}

// Bytes of the variables of `function` and of the deepest call below it. OpenCL C has no recursion; what there is of it
// counts once.
std::uint64_t private_bytes(const llvm::Function& function, std::map<const llvm::Function*, std::uint64_t>& known) {
  if (const auto found = known.find(&function); found != known.end()) return found->second;
  known.emplace(&function, 0);
  const llvm::DataLayout& layout = function.getParent()->getDataLayout();
  std::uint64_t own = 0;
  std::uint64_t below = 0;
  for (const llvm::Instruction& instruction : llvm::instructions(function)) {
    if (const auto* variable = llvm::dyn_cast<llvm::AllocaInst>(&instruction)) {
      own += layout.getTypeAllocSize(variable->getAllocatedType()).getFixedSize();
    } else if (const auto* call = llvm::dyn_cast<llvm::CallBase>(&instruction)) {
      const auto* callee = llvm::dyn_cast<llvm::Function>(call->getCalledOperand()->stripPointerCastsAndAliases());
      if (callee != nullptr) below = std::max(below, private_bytes(*callee, known));
    }
  }
  return known[&function] = own + below;
}

enum class Memory { kGlobal, kLocal, kPrivate };

// Defines what clang calls for to_global(), to_local() and to_private(): the pointer, or null if it means other memory.
// The device keeps private and local memory at fixed addresses, a unit's stack first and its local memory at the end of
// its space (device/window.h); everything else is global.
void define_conversion(llvm::Module& module, const char* name, Memory wanted) {
  llvm::Function* function = module.getFunction(name);
  if (function == nullptr || !function->isDeclaration()) return;
  function->setLinkage(llvm::GlobalValue::InternalLinkage);
  function->addFnAttr(llvm::Attribute::AlwaysInline);
  llvm::IRBuilder<> builder(llvm::BasicBlock::Create(module.getContext(), "", function));
  llvm::Value* pointer = function->getArg(0);
  llvm::Value* offset =
      builder.CreateSub(builder.CreatePtrToInt(pointer, builder.getInt64Ty()), builder.getInt64(window::kUnits.start));
  llvm::Value* in_units = builder.CreateICmpULT(offset, builder.getInt64(window::kUnits.size));
  llvm::Value* in_local = builder.CreateICmpUGE(builder.CreateURem(offset, builder.getInt64(window::kUnitSpace)),
                                                builder.getInt64(window::kUnitSpace - window::kUnitLocalMemory));
  llvm::Value* matches = nullptr;
  switch (wanted) {
    case Memory::kGlobal:
      matches = builder.CreateNot(in_units);
      break;
    case Memory::kLocal:
      matches = builder.CreateAnd(in_units, in_local);
      break;
    case Memory::kPrivate:
      matches = builder.CreateAnd(in_units, builder.CreateNot(in_local));
      break;
  }
  auto* type = llvm::cast<llvm::PointerType>(function->getReturnType());
  builder.CreateRet(
      builder.CreateSelect(matches, builder.CreatePointerCast(pointer, type), llvm::ConstantPointerNull::get(type)));
}

}  // namespace

void resolve_generic_builtins(llvm::Module& module) {
  define_conversion(module, "__to_global", Memory::kGlobal);
  define_conversion(module, "__to_local", Memory::kLocal);
  define_conversion(module, "__to_private", Memory::kPrivate);
  std::vector<llvm::Function*> declarations;
  for (llvm::Function& function : module) {
    if (function.isDeclaration() && view(function.getName()).starts_with("_Z")) declarations.push_back(&function);
  }
  for (llvm::Function* function : declarations) {
    std::string name = library_name(view(function->getName()));
    if (name == view(function->getName())) continue;
    if (llvm::Function* present = module.getFunction(name);
        present != nullptr && present->getType() == function->getType()) {
      function->replaceAllUsesWith(present);
      function->eraseFromParent();
    } else {
      function->setName(name);
    }
  }
}

KernelNames shorten_kernel_names(llvm::Module& module) {
  // PoCL makes file names of them, with a few letters more.
  constexpr std::size_t kLongest = 200;
  KernelNames names;
  for (llvm::Function& function : module) {
    const std::string name = function.getName().str();
    if (!is_kernel(function) || name.size() <= kLongest) continue;
    const std::string symbol = fmt::format("_cl_long_name_{}", names.size());
    function.setName(symbol);
    names.emplace(symbol, name);
    for (llvm::GlobalVariable& variable : module.globals()) {
      const std::string variable_name = variable.getName().str();
      if (variable_name.starts_with(name + ".")) variable.setName(symbol + variable_name.substr(name.size()));
    }
  }
  return names;
}

std::vector<KernelImage> describe_kernels(const llvm::Module& module, const KernelNames& shortened) {
  std::vector<KernelImage> kernels;
  std::map<const llvm::Function*, std::uint64_t> known_bytes;
  for (const llvm::Function& function : module) {
    if (!is_kernel(function)) continue;
    KernelImage kernel;
    kernel.symbol = function.getName().str();
    const auto long_name = shortened.find(kernel.symbol);
    kernel.name = long_name != shortened.end() ? long_name->second : source_name(kernel.symbol);
    kernel.uniform_work_groups = function.getFnAttribute("uniform-work-group-size").getValueAsString() == "true";
    kernel.private_bytes = private_bytes(function, known_bytes);
    for (unsigned i = 0; i < function.arg_size(); ++i) kernel.arguments.push_back(describe_argument(function, i));
    kernel.required_local_size = sizes_of(function.getMetadata("reqd_work_group_size"));
    kernel.local_size_hint = sizes_of(function.getMetadata("work_group_size_hint"));
    const auto& required = kernel.required_local_size;
    const auto& hint = kernel.local_size_hint;
    if (required[0] != 0) {
      append_attribute(kernel.attributes,
                       fmt::format("reqd_work_group_size({},{},{})", required[0], required[1], required[2]));
    }
    if (hint[0] != 0) {
      append_attribute(kernel.attributes, fmt::format("work_group_size_hint({},{},{})", hint[0], hint[1], hint[2]));
    }
    if (const llvm::MDNode* node = function.getMetadata("vec_type_hint");
        node != nullptr && node->getNumOperands() == 2) {
      append_attribute(kernel.attributes, fmt::format("vec_type_hint({})", hinted_type(node)));
    }
    std::set<const llvm::Function*> seen;
    kernel.uses_printf = reaches_printf(function, seen);
    kernels.push_back(std::move(kernel));
  }
  return kernels;
}

std::vector<std::byte> to_bitcode(const llvm::Module& module) {
  llvm::SmallVector<char, 0> bitcode;
  llvm::raw_svector_ostream stream(bitcode);
  llvm::WriteBitcodeToFile(module, stream);
  auto bytes = std::as_bytes(std::span(bitcode.data(), bitcode.size()));
  return {bytes.begin(), bytes.end()};
}

void finish_module(llvm::Module& module, bool as_object, FrontEndOutput* output) {
  if (!as_object) {
    resolve_generic_builtins(module);
    const KernelNames shortened = shorten_kernel_names(module);
    output->kernels = describe_kernels(module, shortened);
    output->global_variables_size = global_variables_size(module);
  }
  output->bitcode = to_bitcode(module);
  output->ok = true;
}

std::uint64_t global_variables_size(const llvm::Module& module) {
  std::uint64_t bytes = 0;
  for (const llvm::GlobalVariable& variable : module.globals()) {
    if (variable.isConstant() || variable.isDeclaration()) continue;
    // A kernel's __local variable is called "KERNEL.variable".
    std::string_view name = view(variable.getName());
    std::size_t dot = name.find('.');
    if (dot != std::string_view::npos) {
      const llvm::Function* owner = module.getFunction(llvm::StringRef(name.data(), dot));
      if (owner != nullptr && is_kernel(*owner)) continue;
    }
    bytes += module.getDataLayout().getTypeAllocSize(variable.getValueType()).getFixedSize();
  }
  return bytes;
}

}  // namespace mirrorcl::compiler
