// SPDX-License-Identifier: Apache-2.0
#include "bench/vendors.h"

#include <cstdlib>
#include <stdexcept>

namespace mirrorcl::bench {

namespace fs = std::filesystem;

Vendors::Vendors(const std::string& mirrorcl_icd, const std::string& pocl_icd) {
  std::string pattern = (fs::temp_directory_path() / "mirrorcl-bench-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot create a temporary folder");
  root_ = pattern;
  for (const char* folder : {"both", "mirrorcl", "pocl", "mirrorcl-cache", "pocl-cache"}) {
    fs::create_directory(root_ / folder);
  }
  has_mirrorcl_ = fs::exists(mirrorcl_icd);
  if (has_mirrorcl_) {
    fs::copy(mirrorcl_icd, root_ / "both" / "mirrorcl.icd");
    fs::copy(mirrorcl_icd, root_ / "mirrorcl" / "mirrorcl.icd");
  }
  has_pocl_ = fs::exists(pocl_icd);
  if (has_pocl_) {
    fs::copy(pocl_icd, root_ / "both" / "pocl.icd");
    fs::copy(pocl_icd, root_ / "pocl" / "pocl.icd");
  }
}

Vendors::~Vendors() {
  std::error_code ignored;  // a left-over temporary folder is no reason to fail
  fs::remove_all(root_, ignored);
}

void Vendors::export_environment() const {
  setenv("OCL_ICD_VENDORS", both().c_str(), 1);
  setenv("MIRRORCL_CACHE_DIR", (root_ / "mirrorcl-cache").c_str(), 1);
  setenv("POCL_CACHE_DIR", (root_ / "pocl-cache").c_str(), 1);
}

}  // namespace mirrorcl::bench
