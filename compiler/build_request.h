// SPDX-License-Identifier: Apache-2.0
// What a program asks of the compiler: clBuildProgram, clCompileProgram or clLinkProgram (OpenCL 3.0 API §5.8). Plain
// data; travels to the compiler service, and is what the disk cache knows results by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mirrorcl::compiler {

enum class BuildKind : std::uint32_t {
  kBuild,    // source to kernels
  kCompile,  // source and headers to an object
  kLink,     // objects and libraries to kernels, or with -create-library to a library
};

// A header of clCompileProgram: what `#include "name"` and `#include <name>` find before any file.
struct Header {
  std::string name;
  std::string source;
};

// What a link takes of a ProgramImage.
struct ObjectFile {
  std::vector<std::byte> bitcode;
  bool flush_denormals = false;
};

struct BuildRequest {
  std::string source = {};   // concatenated strings of clCreateProgramWithSource
  std::string options = {};  // as given
  BuildKind kind = BuildKind::kBuild;
  std::vector<Header> headers = {};      // kCompile; of several with one name the last counts
  std::vector<ObjectFile> objects = {};  // kLink
};

}  // namespace mirrorcl::compiler
