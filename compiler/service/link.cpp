// SPDX-License-Identifier: Apache-2.0
// clLinkProgram: joins the modules that the front end made of several sources.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Linker/Linker.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/raw_ostream.h>
#pragma GCC diagnostic pop

#include <fmt/format.h>

#include "compiler/service/front_end.h"
#include "compiler/service/module.h"

namespace mirrorcl::compiler {
namespace {

const char* severity_of(const llvm::DiagnosticInfo& info) {
  return info.getSeverity() == llvm::DS_Error ? "error" : "warning";
}

// `log` is the std::string that the build log is made in.
void add_to_log(const llvm::DiagnosticInfo& info, void* log) {
  if (info.getSeverity() != llvm::DS_Error && info.getSeverity() != llvm::DS_Warning) return;
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::DiagnosticPrinterRawOStream printer(stream);
  info.print(printer);
  *static_cast<std::string*>(log) += fmt::format("{}: {}\n", severity_of(info), stream.str());
}

}  // namespace

FrontEndOutput link_objects(const std::vector<ObjectFile>& objects, bool as_library) {
  FrontEndOutput output;
  llvm::LLVMContext context;
  context.setOpaquePointers(false);  // as the front end makes them
  context.setDiagnosticHandlerCallBack(add_to_log, &output.log);
  llvm::Module whole("program", context);
  llvm::Linker linker(whole);
  for (const ObjectFile& object : objects) {
    const llvm::StringRef bytes(reinterpret_cast<const char*>(object.bitcode.data()), object.bitcode.size());
    auto part = llvm::parseBitcodeFile(llvm::MemoryBufferRef(bytes, "object"), context);
    if (!part) {
      output.log += fmt::format("error: an object cannot be read: {}\n", llvm::toString(part.takeError()));
      return output;
    }
    if (linker.linkInModule(std::move(*part))) return output;
  }
  finish_module(whole, as_library, &output);
  return output;
}

}  // namespace mirrorcl::compiler
