# shellcheck shell=bash
# The stages of `./bootstrap.sh test`, and their counts. Read by bootstrap.sh, which brings configure, build and say.
#
# A stage is a function that prints what it does, and calls `count PASSED FAILED` as often as it likes. A stage that
# ends with an error without having counted a failure is one failure: nothing that went wrong adds up to a pass.

: "${build_dir:?}" "${pika_archive:?}"  # from bootstrap.sh
readonly all_stages=(checks unit asan tsan fuzz install e2e suites)
readonly sanitizer_options=(-Doptimization=1 -Dwerror=false)

# The C++ that is ours: what git knows or could know, or (in an unpacked archive) what lies there.
our_sources() {
  git ls-files --cached --others --exclude-standard -- '*.cpp' '*.hpp' 2>/dev/null ||
    find . \( -path './build*' -o -path './subprojects/*' \) -prune -o -type f \( -name '*.cpp' -o -name '*.hpp' \) -print
}

count() { echo "$1 $2" >>"$counts"; }

# check TEXT COMMAND...: one thing that passes or fails.
check() {
  local text=$1
  shift
  if "$@"; then
    echo "ok    $text"
    count 1 0
  else
    echo "FAILED  $text"
    count 0 1
  fi
}

format_is_right() {
  local -a files
  mapfile -t files < <(our_sources)
  ((${#files[@]} > 0)) && clang-format --dry-run -Werror "${files[@]}"
}

stage_checks() {
  # Other versions of clang-format see some things differently.
  if [[ $(clang-format --version) == *' 14.'* ]]; then
    check 'the code is formatted' format_is_right
  else
    echo 'skipped: the format is checked with clang-format 14'
  fi
  check 'includes point down only' python3 tests/checks/includes.py
  check 'the check of includes can fail' python3 tests/checks/includes.py --self-test
  check 'every numbered behaviour of AMQP has its line and its test' python3 tests/checks/behaviours.py
  check 'the check of behaviours can fail' python3 tests/checks/behaviours.py --self-test
  check 'all of the interface has a comment, and Doxygen reads it' tests/checks/documentation.sh
  check 'the check of comments can fail' tests/checks/documentation.sh --self-test
}

# catch2 DIR SUITE [WRAPPER...]: runs the built unit tests, and counts their test cases.
catch2() {
  local dir=$1 suite=$2 status=0
  shift 2
  rm -f "$dir"/meson-logs/*.catch2.xml
  "$@" meson test -C "$dir" --no-rebuild --print-errorlogs --timeout-multiplier 3 --suite "posthorn:$suite" || status=$?
  local passed failed
  read -r passed failed < <(python3 tests/catch2_counts.py "$dir"/meson-logs/*.catch2.xml)
  count "$passed" "$failed"
  return "$status"
}

# The build that `run` uses, with the tests that `run` leaves out.
build_normally() {
  configure "$build_dir" -Dtests=true
  if ! python3 -c 'import json, sys
sys.exit(not any(o["name"] == "tests" and o["value"] for o in json.load(open(sys.argv[1]))))' \
    "$build_dir/meson-info/intro-buildoptions.json"; then
    quietly meson setup --reconfigure "$build_dir" -Dtests=true
  fi
  build "$build_dir"
}

stage_unit() {
  build_normally
  catch2 "$build_dir" unit
  check 'mailboxes do what their model does, 100,000 times' "$build_dir/tests/mailbox_test" '[.long]'
}

stage_asan() {
  configure "$build_dir-asan" -Dsanitize=address "${sanitizer_options[@]}"
  build "$build_dir-asan" unit_tests
  catch2 "$build_dir-asan" unit
}

stage_tsan() {
  configure "$build_dir-tsan" -Dsanitize=thread "${sanitizer_options[@]}"
  build "$build_dir-tsan" concurrency_tests
  # ThreadSanitizer of gcc 12 does not start where the kernel spreads addresses over too many bits.
  local -a wrapper=(setarch "$(uname -m)" --addr-no-randomize)
  "${wrapper[@]}" true 2>/dev/null || wrapper=()
  catch2 "$build_dir-tsan" concurrency "${wrapper[@]}"
}

# fuzz_one PROGRAM: starts from the corpus, and keeps what it finds, crashes too, under the build directory.
fuzz_one() {
  local program=$1 name found
  name=$(basename "$program" _fuzz)
  found=$(dirname "$program")/found/$name
  mkdir -p "$found" "tests/fuzz/corpus/$name"
  "$program" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$found/" "$found" "tests/fuzz/corpus/$name" >"$found.log" 2>&1
}

stage_fuzz() {
  CC=clang CXX=clang++ configure "$build_dir-fuzz" -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
  build "$build_dir-fuzz"
  local -a programs running=()
  local program
  mapfile -t programs < <(find "$build_dir-fuzz/tests/fuzz" -maxdepth 1 -type f -name '*_fuzz' | sort)
  if ((${#programs[@]} == 0)); then
    echo 'there are no fuzzers'
    return 1
  fi
  # As many at a time as there are processors.
  local -A pid_of=()
  for program in "${programs[@]}"; do
    if ((${#running[@]} >= $(nproc))); then
      fuzz_result "${running[0]}"
      running=("${running[@]:1}")
    fi
    fuzz_one "$program" &
    pid_of[$program]=$!
    running+=("$program")
  done
  for program in "${running[@]}"; do fuzz_result "$program"; done
}

# Waits for one fuzzer, and counts it. Reads stage_fuzz's pid_of.
fuzz_result() {
  local program=$1 name log
  name=$(basename "$program" _fuzz)
  log=$(dirname "$program")/found/$name.log
  if wait "${pid_of[$program]}"; then
    echo "ok    $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
    count 1 0
  else
    echo "FAILED  $name"
    tail -n 60 "$log"
    count 0 1
  fi
}

# Installs the normal build into a folder of its own, and sets `installed` to its prefix there.
install_tree() {
  build_normally
  install_root=$(mktemp -d "${TMPDIR:-/tmp}/posthorn-install.XXXXXX")
  trap 'rm -rf "$install_root"' EXIT
  DESTDIR=$install_root meson install -C "$build_dir" --no-rebuild --quiet
  installed=$(find "$install_root" -path '*/bin/posthornd' -print -quit)
  installed=${installed%/bin/posthornd}
  [[ -n $installed ]]
}

stage_install() {
  install_tree
  check 'all is installed, and the library can be used' tests/install/check.sh "$installed"
  check 'projects with schemas of their own are built with CMake and Meson, and run' tests/install/outside.sh "$installed"
}

# python_tests LOG COMMAND...: runs one of our Python runners, and counts what its last line says.
python_tests() {
  local log=$1 passed failed status=0
  shift
  # Debian's Python is the one that has Debian's packages.
  local python=python3
  [[ ! -x /usr/bin/python3 ]] || python=/usr/bin/python3
  PYTHONDONTWRITEBYTECODE=1 "$python" "$@" 2>&1 | tee "$log" || status=$?
  if read -r passed failed < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' "$log" | tail -n 1); then
    count "$passed" "$failed"
  else
    status=1
  fi
  return "$status"
}

stage_e2e() {
  install_tree
  local tests=$build_dir/tests
  python_tests "$install_root/e2e.log" tests/e2e/run.py --prefix "$installed" \
    --examples "$build_dir/examples" --faulty-node "$build_dir/node/faulty_node" --loader "$tests/e2e/loader" \
    --powercut "$tests/powercut/powercut.so" --powercut-selftest "$tests/powercut/powercut_selftest"
}

# The Node.js packages of the lock file, in the build directory; installed anew when the lock file has changed.
node_modules() {
  local dir=$build_dir/suites
  cmp -s tests/suites/node/package-lock.json "$dir/installed-lock.json" && return 0
  mkdir -p "$dir"
  rm -f "$dir/installed-lock.json"
  cp tests/suites/node/package.json tests/suites/node/package-lock.json "$dir/"
  (cd "$dir" && quietly npm ci --ignore-scripts --no-audit --no-fund)
  cp "$dir/package-lock.json" "$dir/installed-lock.json"
}

stage_suites() {
  install_tree
  node_modules
  python_tests "$install_root/suites.log" tests/suites/run.py --prefix "$installed" \
    --pika "subprojects/packagecache/$pika_archive" --node-modules "$build_dir/suites/node_modules"
}

# choose_stages [STAGE...]: all, if none is named.
choose_stages() {
  local stage
  stages=("$@")
  ((${#stages[@]} > 0)) || stages=("${all_stages[@]}")
  for stage in "${stages[@]}"; do
    [[ " ${all_stages[*]} " == *" $stage "* ]] || fail "there is no stage '$stage'; there are: ${all_stages[*]}."
  done
}

run_stages() {
  local stage started status passed failed total_passed=0 total_failed=0
  local -a summary=()
  counts=$(mktemp "${TMPDIR:-/tmp}/posthorn-counts.XXXXXX")
  for stage in "${stages[@]}"; do
    say "Stage $stage"
    : >"$counts"
    started=$SECONDS
    # Not in a condition: bash would then go on after errors inside of the stage.
    set +e
    (set -eo pipefail; "stage_$stage") </dev/null
    status=$?
    set -e
    read -r passed failed < <(awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }' "$counts")
    if ((status != 0 && failed == 0)); then failed=1; fi
    if ((passed + failed == 0)); then failed=1; fi
    summary+=("$(printf '%-8s %6d passed %4d failed %6d s' "$stage" "$passed" "$failed" $((SECONDS - started)))")
    ((total_passed += passed, total_failed += failed)) || true
  done
  rm -f "$counts"
  say "Summary"
  printf '%s\n' "${summary[@]}"
  echo "$total_passed passed, $total_failed failed"
  ((total_failed == 0))
}
