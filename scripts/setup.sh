# Sourced by ./run and ./check: makes sure that what packages.txt lists is installed, then configures and builds.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# packages KIND...: the packages of packages.txt that these kinds need, one a line.
packages() {
  local kinds=" $* "
  while read -r name kind _; do
    [[ -z $name || $name == \#* ]] && continue
    [[ $kinds == *" $kind "* ]] && printf '%s\n' "$name"
  done < packages.txt
  return 0
}

# install_packages KIND...: installs the missing ones as root; otherwise says which are missing and how to get them.
install_packages() {
  command -v dpkg-query > /dev/null || die "this script installs Debian packages; on another system install what packages.txt lists"
  local wanted installed missing
  wanted=$(packages "$@" | sort -u)
  installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2> /dev/null | sed -n 's/^ii  *//p' | sort -u)
  missing=$(comm -23 <(printf '%s\n' "$wanted") <(printf '%s\n' "$installed"))
  [[ -z $missing ]] && return 0
  # shellcheck disable=SC2086
  if [[ $(id -u) -ne 0 ]]; then
    die "missing packages: $(echo $missing)
Install them as root:  apt-get install --no-install-recommends $(echo $missing)"
  fi
  say "installing: $(echo $missing)"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed"
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing > /dev/null || die "apt-get could not install: $(echo $missing)"
}

# build PRESET [TARGET...]
build() {
  local preset=$1 dir
  shift
  dir=$(build_dir "$preset")
  [[ -f $dir/build.ninja ]] || cmake --preset "$preset" > "/tmp/mirrorcl-configure.$$" 2>&1 || {
    cat "/tmp/mirrorcl-configure.$$"
    rm -f "/tmp/mirrorcl-configure.$$"
    die "configuring preset $preset failed"
  }
  rm -f "/tmp/mirrorcl-configure.$$"
  ninja -C "$dir" --quiet "$@" || die "building preset $preset failed"
}

build_dir() { if [[ $1 == release ]]; then echo build; else echo "build/$1"; fi; }
