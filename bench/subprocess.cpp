// SPDX-License-Identifier: Apache-2.0
#include "bench/subprocess.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>
#include <stdexcept>

#include "base/unique_fd.h"

namespace mirrorcl::bench {

std::map<std::string, double> run_probe(const std::string& name, const std::vector<std::string>& arguments,
                                        const std::map<std::string, std::string>& environment) {
  std::vector<std::string> words = {"/proc/self/exe", "--probe", name};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::vector<std::string> settings;
  for (const auto& [key, value] : environment) settings.push_back(key + "=" + value);
  for (char** variable = environ; *variable != nullptr; variable++) {
    const std::string text = *variable;
    if (!environment.contains(text.substr(0, text.find('=')))) settings.push_back(text);
  }
  std::vector<char*> envp;
  for (std::string& setting : settings) envp.push_back(setting.data());
  envp.push_back(nullptr);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
  pid_t child = 0;
  const int error = posix_spawn(&child, words[0].c_str(), &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot start the probe " + name);
  writing.reset();

  std::string output;
  char buffer[4096];
  for (ssize_t got; (got = read(reading.get(), buffer, sizeof buffer)) > 0;) {
    output.append(buffer, static_cast<std::size_t>(got));
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) throw std::runtime_error("the probe " + name + " failed");

  std::map<std::string, double> numbers;
  std::istringstream lines(output);
  std::string key;
  for (double value = 0; lines >> key >> value;) numbers[key] = value;
  return numbers;
}

}  // namespace mirrorcl::bench
