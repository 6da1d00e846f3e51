# shellcheck shell=bash
# Sourced by scripts that use other releases of Debian than the machine's.

# suite_of MAJOR: the release of Debian that has this version of PostgreSQL. No release has 16.
suite_of() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo forky ;;
        *) return 1 ;;
    esac
}

# The mirrors of Debian's main archive in this machine's apt configuration.
debian_mirrors() {
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format '$(COMPONENT) $(LABEL) $(REPO_URI)' 'Created-By: Packages' \
        | awk '$1 == "main" && $2 == "Debian" && !seen[$3]++ { print $3 }'
}
