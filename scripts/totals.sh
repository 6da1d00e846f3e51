# shellcheck shell=bash
# Sourced by scripts that sum the totals of other commands.

# add_total COMMAND...: runs it, and adds the last total in its output to the variables passed and
# failed. A command that fails without a failure in its total counts as one failure.
add_total() {
    local log status part_passed part_failed
    log=$(mktemp)
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r part_passed part_failed < <(
        awk '/^[0-9]+ passed, [0-9]+ failed$/ { p = $1; f = $3 } END { print p + 0, f + 0 }' "$log"
    )
    rm -f "$log"
    if ((status != 0 && part_failed == 0)); then
        part_failed=1
    fi
    ((passed += part_passed, failed += part_failed)) || true
}
