# shellcheck shell=bash
# Sourced by scripts that look beyond the machine's own release of Debian.

# suite_of MAJOR: the release of Debian that has this version of PostgreSQL; 16 was in none.
suite_of() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo forky ;;
        *) return 1 ;;
    esac
}

# The mirrors of Debian's main archive that apt is configured with on this machine.
debian_mirrors() {
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format '$(COMPONENT) $(LABEL) $(REPO_URI)' 'Created-By: Packages' \
        | awk '$1 == "main" && $2 == "Debian" && !seen[$3]++ { print $3 }'
}
