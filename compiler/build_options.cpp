// SPDX-License-Identifier: Apache-2.0
#include "compiler/build_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace mirrorcl::compiler {
namespace {

// Options that clang's front end takes as they are.
constexpr std::array<std::string_view, 9> kLanguageOptions{"-cl-single-precision-constant",
                                                           "-cl-mad-enable",
                                                           "-cl-no-signed-zeros",
                                                           "-cl-unsafe-math-optimizations",
                                                           "-cl-finite-math-only",
                                                           "-cl-fast-relaxed-math",
                                                           "-cl-strict-aliasing",
                                                           "-cl-uniform-work-group-size",
                                                           "-cl-fp32-correctly-rounded-divide-sqrt"};

// Options that are true of every MirrorCL build: argument information is always kept, and sub-groups make independent
// progress for nobody since there are none.
constexpr std::array<std::string_view, 2> kImpliedOptions{"-cl-kernel-arg-info", "-cl-no-subgroup-ifp"};

// Options of a link that permit what has been decided when the objects were compiled.
constexpr std::array<std::string_view, 5> kLinkOptions{"-cl-no-signed-zeros", "-cl-unsafe-math-optimizations",
                                                       "-cl-finite-math-only", "-cl-fast-relaxed-math",
                                                       "-cl-no-subgroup-ifp"};

bool is_identifier_start(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_';
}

tl::unexpected<Error> invalid(std::string reason) {
  return fail(ErrorCode::kInvalidArgument, std::move(reason));
}

Result<unsigned> parse_standard(std::string_view name) {
  if (name == "CL1.1") return 110U;
  if (name == "CL1.2") return 120U;
  if (name == "CL2.0") return 200U;
  if (name == "CL3.0") return 300U;
  return invalid(fmt::format("-cl-std={}: not CL1.1, CL1.2, CL2.0 or CL3.0", name));
}

}  // namespace

Result<std::vector<std::string>> split_words(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '\\' && quote != '\'' && i + 1 < text.size() &&
        (text[i + 1] == '"' || text[i + 1] == '\\' || text[i + 1] == '\'' || text[i + 1] == ' ')) {
      word += text[++i];
      in_word = true;
    } else if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) return invalid("an opening quote is never closed");
  if (in_word) words.push_back(std::move(word));
  return words;
}

Result<BuildOptions> parse_build_options(const std::string& text) {
  auto words = split_words(text);
  if (!words) return tl::unexpected(words.error());
  BuildOptions options;
  for (std::size_t i = 0; i < words->size(); ++i) {
    const std::string& word = (*words)[i];
    if (word.starts_with("-D") || word.starts_with("-I")) {
      std::string value = word.substr(2);
      if (value.empty()) {
        if (i + 1 == words->size()) return invalid(fmt::format("{} needs a value", word));
        value = (*words)[++i];
      }
      if (word[1] == 'D' && !is_identifier_start(value.empty() ? '\0' : value[0])) {
        return invalid(fmt::format("-D {}: not a name", value));
      }
      if (value.empty()) return invalid("-I needs a folder");
      options.preprocessor.push_back(word.substr(0, 2) + value);
    } else if (word.starts_with("-cl-std=")) {
      auto standard = parse_standard(std::string_view(word).substr(8));
      if (!standard) return tl::unexpected(standard.error());
      options.standard = *standard;
    } else if (word == "-w") {
      options.suppress_warnings = true;
    } else if (word == "-Werror") {
      options.warnings_are_errors = true;
    } else if (word == "-g") {
      options.debug = true;
    } else if (word == "-cl-opt-disable") {
      options.disable_optimisation = true;
    } else if (std::find(kLanguageOptions.begin(), kLanguageOptions.end(), word) != kLanguageOptions.end()) {
      options.language.push_back(word);
    } else if (word == "-cl-denorms-are-zero") {
      options.flush_denormals = true;  // a mode of the processor, set around each launch
    } else if (std::find(kImpliedOptions.begin(), kImpliedOptions.end(), word) == kImpliedOptions.end()) {
      return invalid(fmt::format("{}: not an option of clBuildProgram", word));
    }
  }
  std::sort(options.language.begin(), options.language.end());
  options.language.erase(std::unique(options.language.begin(), options.language.end()), options.language.end());
  return options;
}

Result<LinkOptions> parse_link_options(const std::string& text) {
  auto words = split_words(text);
  if (!words) return tl::unexpected(words.error());
  LinkOptions options;
  bool enable_link_options = false;
  for (const std::string& word : *words) {
    if (word == "-create-library") {
      options.create_library = true;
    } else if (word == "-enable-link-options") {
      enable_link_options = true;
    } else if (word == "-cl-denorms-are-zero") {
      options.flush_denormals = true;
    } else if (std::find(kLinkOptions.begin(), kLinkOptions.end(), word) == kLinkOptions.end()) {
      return invalid(fmt::format("{}: not an option of clLinkProgram", word));
    }
  }
  if (enable_link_options && !options.create_library) {
    return invalid("-enable-link-options: only together with -create-library");
  }
  return options;
}

}  // namespace mirrorcl::compiler
