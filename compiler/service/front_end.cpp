// SPDX-License-Identifier: Apache-2.0
#include "compiler/service/front_end.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <clang/AST/ASTConsumer.h>
#include <clang/AST/Decl.h>
#include <clang/AST/DeclGroup.h>
#include <clang/Basic/Diagnostic.h>
#include <clang/Basic/FileManager.h>
#include <clang/CodeGen/CodeGenAction.h>
#include <clang/Frontend/CompilerInstance.h>
#include <clang/Frontend/CompilerInvocation.h>
#include <clang/Frontend/FrontendActions.h>
#include <clang/Frontend/MultiplexConsumer.h>
#include <clang/Frontend/TextDiagnosticPrinter.h>
#include <clang/Frontend/Utils.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/VirtualFileSystem.h>
#include <llvm/Support/raw_ostream.h>
#pragma GCC diagnostic pop

#include <fmt/format.h>

#include <map>
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
constexpr const char* kHeaderFolder = "/mirrorcl-internal/headers/";
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

// Notes the functions that are declared inline.
class InlineFunctions : public clang::ASTConsumer {
 public:
  explicit InlineFunctions(std::vector<std::string>* names) : names_(names) {}
  bool HandleTopLevelDecl(clang::DeclGroupRef group) override {
    for (const clang::Decl* declaration : group) {
      const auto* function = llvm::dyn_cast<clang::FunctionDecl>(declaration);
      if (function != nullptr && function->isInlineSpecified() && function->getIdentifier() != nullptr) {
        names_->push_back(function->getName().str());
      }
    }
    return true;
  }

 private:
  std::vector<std::string>* names_;
};

// Source to a module in memory.
class EmitModule : public clang::EmitLLVMOnlyAction {
 public:
  using EmitLLVMOnlyAction::EmitLLVMOnlyAction;
  const std::vector<std::string>& inline_functions() const { return inline_functions_; }

 protected:
  std::unique_ptr<clang::ASTConsumer> CreateASTConsumer(clang::CompilerInstance& compiler,
                                                        llvm::StringRef file) override {
    std::vector<std::unique_ptr<clang::ASTConsumer>> both;
    both.push_back(std::make_unique<InlineFunctions>(&inline_functions_));
    both.push_back(EmitLLVMOnlyAction::CreateASTConsumer(compiler, file));
    return std::make_unique<clang::MultiplexConsumer>(std::move(both));
  }

 private:
  std::vector<std::string> inline_functions_;
};

// Headers define inline functions, and several objects may include them: one definition of each stays in a link.
void share_inline_functions(llvm::Module& module, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    llvm::Function* function = module.getFunction(name);
    if (function != nullptr && !function->isDeclaration() && function->hasExternalLinkage()) {
      function->setLinkage(llvm::GlobalValue::WeakODRLinkage);
    }
  }
}

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

  FrontEndOutput compile(const BuildRequest& request, const BuildOptions& options) {
    FrontEndOutput output;
    std::vector<std::string> arguments = language_arguments(options, target_cpu_);
    const std::string& precompiled = precompiled_prefix(arguments);
    if (precompiled.empty()) {
      arguments.insert(arguments.end(), {"-include", kPrefixPath});
    } else {
      arguments.insert(arguments.end(), {"-include-pch", kPrecompiledPath});
    }
    if (!request.headers.empty()) arguments.insert(arguments.end(), {"-I", kHeaderFolder});
    for (std::string& argument : program_arguments(options)) arguments.push_back(std::move(argument));
    arguments.emplace_back("-emit-llvm-only");

    clang::CompilerInstance compiler;
    llvm::raw_string_ostream log(output.log);
    clang::TextDiagnosticPrinter printer(log, diagnostic_options());
    if (!prepare(compiler, arguments, printer, log, precompiled, request.headers)) return output;
    auto files = std::make_shared<UserFiles>();
    compiler.addDependencyCollector(files);
    auto& inputs = compiler.getFrontendOpts().Inputs;
    inputs.clear();
    inputs.emplace_back(buffer_of(request.source, kSourceName), clang::InputKind(clang::Language::OpenCL));

    llvm::LLVMContext context;
    EmitModule action(&context);
    const bool good = compiler.ExecuteAction(action);
    output.used_files = files->any();
    if (!good) return output;
    std::unique_ptr<llvm::Module> module = action.takeModule();
    if (module == nullptr) return output;
    const bool as_object = request.kind == BuildKind::kCompile;
    if (as_object) share_inline_functions(*module, action.inline_functions());
    finish_module(*module, as_object, &output);
    return output;
  }

 private:
  // Everything but the input.
  bool prepare(clang::CompilerInstance& compiler, const std::vector<std::string>& arguments,
               clang::TextDiagnosticPrinter& printer, llvm::raw_ostream& log, const std::string& precompiled,
               const std::vector<Header>& headers) {
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
    // Of two headers with one name the last counts; a file that is there already stays.
    for (auto header = headers.rbegin(); header != headers.rend(); ++header) {
      const std::string path = header->name.starts_with('/') ? header->name : kHeaderFolder + header->name;
      own->addFile(path, 0, llvm::MemoryBuffer::getMemBufferCopy(header->source, path));
    }
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
    if (!prepare(compiler, arguments, printer, stream, {}, {})) return {};
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

FrontEndOutput FrontEnd::compile(const BuildRequest& request, const BuildOptions& options) {
  return implementation_->clang.compile(request, options);
}

}  // namespace mirrorcl::compiler
