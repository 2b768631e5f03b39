#!/usr/bin/env bash
# From a bare Debian 12 or 13 to a running node, or to tested code. See usage() below and docs/building.md.
#
# It installs only what is missing, asks for root only when it has to install something, and leaves the system's apt
# settings as they are: what comes from another suite is fetched with list files of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly caf_archive=actor-framework_0.18.7.orig.tar.gz
readonly caf_sha256=d5c3abe8fd67a729aab1baeece10367637d903ba335f4c79378bcadfbcd34552
readonly pika_archive=python-pika_1.3.2.orig.tar.gz
readonly pika_sha256=5eb71b9a0047c77d99378e525a2041fc50aae4a177b060f9825b3e2fdcc96fc4

usage() {
  cat <<'TEXT'
usage: ./bootstrap.sh run [OPTION...]   install what is missing, build, and run one node in the foreground;
                                        the options are posthornd's (./bootstrap.sh run --help), its data is in ./data
       ./bootstrap.sh test [STAGE...]   the same, then all tests, or only these stages of them:
                                        checks unit asan tsan fuzz install e2e suites
       ./bootstrap.sh --help            this text

Environment: BUILD_DIR (build)   FUZZ_SECONDS (60, for each fuzzer)   JOBS (by processors and memory)
TEXT
}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf 'bootstrap.sh: %s\n' "$*" >&2; exit 1; }

# --- what is needed ----------------------------------------------------------------------------------------------

# A package may name the least version that will do: name>=version. Debian 12 has some of them only as backports.
list_packages() {
  local purpose=$1
  packages=(g++ meson ninja-build pkg-config cmake ca-certificates libcapnp-dev capnproto liblmdb-dev libxxhash-dev
    libssl-dev libsodium-dev libre2-dev libcli11-dev libtomlplusplus-dev libspdlog-dev)
  backports=()
  case $codename in
    bookworm) packages+=(libboost1.81-dev) ;;
    *) packages+=(libboost-dev) ;;
  esac
  [[ $purpose == test ]] || return 0
  packages+=(ccache clang libclang-rt-dev clang-format doxygen amqp-tools python3 python3-pika)
  packages+=(python3-celery python3-kombu python3-gevent python3-tornado)
  # Who has them from elsewhere keeps them: those packages and Debian's exclude each other.
  command -v node >/dev/null || packages+=(nodejs)
  command -v npm >/dev/null || packages+=(npm)
  case $codename in
    bookworm) backports+=("catch2>=3") ;;
    *) packages+=("catch2>=3") ;;
  esac
}

# Prints those of its arguments that are not installed.
missing_packages() {
  (($# > 0)) || return 0
  local -A installed=()
  local name version state entry least
  while read -r name version state; do
    if [[ $state == installed ]]; then installed[$name]=$version; fi
  done < <(dpkg-query -W -f='${Package} ${Version} ${db:Status-Status}\n' "${@%%>=*}" 2>/dev/null || true)
  for entry in "$@"; do
    name=${entry%%>=*}
    least=${entry#"$name"}
    least=${least#>=}
    if [[ -z ${installed[$name]:-} ]]; then
      echo "$entry"
    elif [[ -n $least ]] && ! dpkg --compare-versions "${installed[$name]}" ge "$least"; then
      echo "$entry"
    fi
  done
}

readonly boost_is_new_enough='#include <boost/version.hpp>
static_assert(BOOST_VERSION >= 108100);'

# On a system that is not Debian 12 or 13, nothing is installed, but what is there may be enough.
check_foreign_system() {
  local -a missing=()
  local tool library
  for tool in c++ meson ninja pkg-config cmake capnp capnpc-c++; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  if command -v pkg-config >/dev/null; then
    for library in capnp capnp-json lmdb libxxhash openssl libsodium re2 CLI11 tomlplusplus spdlog; do
      pkg-config --exists "$library" || missing+=("$library (library)")
    done
  fi
  if command -v c++ >/dev/null && ! c++ -x c++ -fsyntax-only - <<<"$boost_is_new_enough" 2>/dev/null; then
    missing+=("Boost 1.81 (library)")
  fi
  if [[ $purpose == test ]]; then
    for tool in clang++ clang-format doxygen amqp-publish python3 node npm; do
      command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if command -v pkg-config >/dev/null && ! pkg-config --exists 'catch2-with-main >= 3'; then
      missing+=("Catch2 3 (library)")
    fi
    if command -v python3 >/dev/null; then
      for library in pika celery kombu gevent tornado; do
        python3 -c "import $library" 2>/dev/null || missing+=("$library (for python3)")
      done
    fi
  fi
  ((${#missing[@]} == 0)) && return 0
  local list
  list=$(printf ', %s' "${missing[@]}")
  fail "this is $system_name; packages are installed on Debian 12 and 13 only. Missing here: ${list:2}." \
    "Install them and call again; docs/building.md says which versions are needed."
}

# --- installing --------------------------------------------------------------------------------------------------

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# The address of the mirror that this system already uses.
mirror() {
  local address
  # shellcheck disable=SC2016  # apt-get fills these in
  address=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
    awk -v suite="$codename" '$1 == suite { print $2; exit }')
  [[ -n $address ]] || fail "apt knows no mirror for Debian's suite $codename. Add one to /etc/apt and call again."
  echo "$address"
}

# Makes list files of our own out of the lines on its input ("deb SUITE"), reads them, and sets apt_own to the options
# that make apt use these instead of the system's, with the arguments as further options.
read_own_lists() {
  local kind suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed='' address
  address=$(mirror)
  [[ -r $keyring ]] && signed="[signed-by=$keyring] "
  mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
  while read -r kind suite; do
    echo "$kind $signed$address $suite main"
  done >"$scratch/sources.list"
  apt_own=(-q -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" -o APT::Get::List-Cleanup=false "$@")
  apt-get "${apt_own[@]}" update
}

install_packages() {
  local -a wanted wanted_backports
  mapfile -t wanted < <(missing_packages "${packages[@]}")
  mapfile -t wanted_backports < <(missing_packages "${backports[@]}")
  ((${#wanted[@]} + ${#wanted_backports[@]} > 0)) || return 0

  local -a all=("${wanted[@]}" "${wanted_backports[@]}")
  if ((EUID != 0)) && ! command -v sudo >/dev/null; then
    fail "these packages are missing: ${all[*]}. Call as root, or install sudo."
  fi
  say "Installing ${all[*]}"
  local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove)
  as_root apt-get update -q </dev/null >&2
  if ((${#wanted[@]} > 0)); then
    as_root "${install[@]}" "${wanted[@]%%>=*}" </dev/null >&2
  fi
  if ((${#wanted_backports[@]} > 0)); then
    read_own_lists <<<"deb $codename"$'\n'"deb $codename-backports" >&2
    as_root "${install[@]}" "${apt_own[@]}" "${wanted_backports[@]/%>=*//$codename-backports}" </dev/null >&2
  fi
  local -a still
  mapfile -t still < <(missing_packages "${packages[@]}" "${backports[@]}")
  ((${#still[@]} == 0)) || fail "apt did not install ${still[*]}."
}

# has_archive ARCHIVE SHA256: whether the archive was fetched before. One that is not what it should be goes.
has_archive() {
  local cache=subprojects/packagecache
  [[ -f $cache/$1 ]] || return 1
  sha256sum --status -c <<<"$2  $cache/$1" && return 0
  rm -f "$cache/$1"
  return 1
}

# fetch_source ARCHIVE SHA256 SUITE PACKAGE VERSION [OPTION...]: brings the archive of a source package from the mirror.
# Only this very archive is accepted; any other error is the caller's to judge.
fetch_source() {
  local archive=$1 sha256=$2 suite=$3 package=$4 version=$5
  shift 5
  mkdir -p subprojects/packagecache
  { read_own_lists "$@" <<<"deb-src $suite" &&
    (cd "$scratch" && apt-get "${apt_own[@]}" source --tar-only --download-only "$package=$version" ||
      apt-get "${apt_own[@]}" source --tar-only --download-only "$package"); } </dev/null >&2 || return 1
  mv "$scratch/$archive" subprojects/packagecache/ || return 1
  has_archive "$archive" "$sha256" ||
    fail "$archive from the mirror is not the archive it should be (sha256)."
}

# CAF's sources come from Debian's source package, which every mirror has. Where there is none, Meson fetches them from
# the address in subprojects/caf.wrap. Either way only this very archive is accepted.
fetch_caf() {
  [[ -d subprojects/actor-framework-0.18.7 ]] && return 0
  has_archive "$caf_archive" "$caf_sha256" && return 0
  pkg-config --exists 'caf_core >= 0.18.7' && return 0
  [[ $debian == yes ]] || return 0

  say "Fetching the sources of CAF"
  # Some mirrors copy `experimental` seldom, and apt then finds its index out of date. That may pass here, and here only:
  # the checksum above says which archive is accepted, however old the index is that leads to it.
  fetch_source "$caf_archive" "$caf_sha256" experimental actor-framework 0.18.7-1~exp1 \
    -o Acquire::Check-Valid-Until=false ||
    say "There is no source package with CAF 0.18.7 at this mirror; Meson will ask for it upstream"
}

# The sources of pika, for its acceptance tests: one version for all, that of Debian 13.
fetch_pika() {
  has_archive "$pika_archive" "$pika_sha256" && return 0
  if [[ $debian == yes ]]; then
    say "Fetching the sources of pika"
    fetch_source "$pika_archive" "$pika_sha256" trixie python-pika 1.3.2-1 && return 0
  fi
  say "The stage 'suites' will fail without subprojects/packagecache/$pika_archive. Put it there by hand: it is" \
    "the source archive of Debian's package python-pika 1.3.2-1."
}

os_release() {
  # shellcheck disable=SC1091
  (. /etc/os-release 2>/dev/null || true; printf '%s' "${!1:-unknown}")
}

clean_up() {
  rm -rf "$scratch" 2>/dev/null || as_root rm -rf "$scratch"
}

# Installs for `run` or `test` what is missing.
prepare() {
  purpose=$1
  system_name=$(os_release PRETTY_NAME)
  codename=$(os_release VERSION_CODENAME)
  debian=no
  case "$(os_release ID) $(os_release VERSION_ID)" in
    'debian 12' | 'debian 13') debian=yes ;;
  esac
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/posthorn-bootstrap.XXXXXX")
  chmod 755 "$scratch"
  trap clean_up EXIT
  if [[ $debian == yes ]]; then
    list_packages "$purpose"
    install_packages
  else
    check_foreign_system
  fi
  fetch_caf
  if [[ $purpose == test && " ${stages[*]} " == *' suites '* ]]; then fetch_pika; fi
  clean_up
  trap - EXIT
}

# --- building ----------------------------------------------------------------------------------------------------

readonly build_dir=${BUILD_DIR:-build}
# A precompiled header carries the time of its parts; and what was compiled in another checkout is the same code.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
export CCACHE_NOHASHDIR=1

# One compiler for each processor, as long as there is about 1.5 GiB of memory for each.
job_count() {
  local processors memory
  processors=$(nproc)
  memory=$(awk '/^MemAvailable/ { print int($2 / 1572864) }' /proc/meminfo)
  echo $((memory < 1 ? 1 : memory < processors ? memory : processors))
}

# configure DIR [MESON OPTION...]: does nothing when it was done before, unless there are new test files.
configure() {
  local dir=$1
  shift
  if [[ ! -f $dir/build.ninja ]]; then
    quietly meson setup "$dir" "$@"
  elif [[ -n $(find tests/*/ -maxdepth 0 ! -name e2e -newer "$dir/build.ninja" -print -quit) ]]; then
    quietly meson setup --reconfigure "$dir" "$@"
  fi
}

# Shows what a command printed only if it fails: nobody reads how well a build was configured.
quietly() {
  local output
  say "$*"
  if ! output=$("$@" 2>&1 </dev/null); then
    printf '%s\n' "$output" >&2
    return 1
  fi
}

# build DIR [TARGET...]
build() {
  local dir=$1
  shift
  ninja -C "$dir" -j "${JOBS:-$(job_count)}" "$@"
}

run_node() {
  if [[ ! -f $build_dir/build.ninja ]]; then
    say "Building; this takes some minutes, the first time only"
  fi
  configure "$build_dir" -Dtests=false
  build "$build_dir" node/posthornd node/posthorn >&2

  local -a data=(--data-dir "$PWD/data")
  local argument
  for argument in "$@"; do
    case $argument in
      --data-dir | --data-dir=* | --config | --config=*) data=() ;;
    esac
  done
  [[ -z ${POSTHORN_NODE_DATA_DIR:-} && -z ${POSTHORN_CONFIG:-} ]] || data=()
  exec "$build_dir/node/posthornd" "${data[@]}" "$@"
}

case ${1:-} in
  run)
    shift
    prepare run
    run_node "$@"
    ;;
  test)
    shift
    # shellcheck source=tests/stages.sh
    . tests/stages.sh
    choose_stages "$@"
    prepare test
    run_stages
    ;;
  -h | --help | help)
    usage
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
