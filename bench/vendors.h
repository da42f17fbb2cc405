// SPDX-License-Identifier: Apache-2.0
// A temporary folder with what the loader needs to show MirrorCL and PoCL side by side (or alone), and with private
// compiler caches for both, so that "cold" is cold. Removed at the end.
#pragma once

#include <filesystem>
#include <string>

namespace mirrorcl::bench {

class Vendors {
 public:
  // Paths of the two .icd files. A file that does not exist is left out; the loader then shows one platform less.
  Vendors(const std::string& mirrorcl_icd, const std::string& pocl_icd);
  ~Vendors();
  Vendors(const Vendors&) = delete;
  Vendors& operator=(const Vendors&) = delete;

  bool has_mirrorcl() const { return has_mirrorcl_; }
  bool has_pocl() const { return has_pocl_; }

  // Values for OCL_ICD_VENDORS.
  std::string both() const { return (root_ / "both").string(); }
  std::string mirrorcl_only() const { return (root_ / "mirrorcl").string(); }
  std::string pocl_only() const { return (root_ / "pocl").string(); }

  // Sets OCL_ICD_VENDORS to both() and the cache folders, in this process and those it starts. Call before the first
  // OpenCL call: the loader reads its environment once.
  void export_environment() const;

 private:
  std::filesystem::path root_;
  bool has_mirrorcl_ = false;
  bool has_pocl_ = false;
};

}  // namespace mirrorcl::bench
