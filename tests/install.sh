# Functions for the test scripts: install what tests need, once, and go on without what is not to be had.
# Sourced by tests/run.sh and tests/stacks/run.sh.

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# install_packages COMMAND:PACKAGES...: Debian's PACKAGES for each COMMAND that is missing. Does
# nothing for other users than root and on other systems.
install_packages() {
    local each missing=()
    for each in "$@"; do
        command -v "${each%%:*}" >/dev/null || missing+=("${each#*:}")
    done
    if [ "${#missing[@]}" = 0 ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        return 0
    fi
    apt-get update -qq >/dev/null || true
    for each in "${missing[@]}"; do
        step "installing $each"
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $each \
            >/dev/null || echo "not available here: continuing without it"
    done
}

# unpack_package COMMAND PACKAGE FOLDER: puts a missing COMMAND of Debian's PACKAGE on the PATH without
# installing it, as a package that is installed may start a server.
unpack_package() {
    local command="$1" package="$2" folder="$3"
    PATH="$PATH:$folder/usr/bin"
    if command -v "$command" >/dev/null || ! command -v apt-get >/dev/null; then
        return 0
    fi
    step "unpacking $package"
    mkdir -p "$folder"
    (
        cd "$folder"
        apt-get download -qq "$package" >/dev/null 2>&1 ||
            { apt-get update -qq >/dev/null && apt-get download -qq "$package" >/dev/null; }
        dpkg-deb -x "$package"_*.deb .
    ) || echo "not available here: continuing without it"
}

# install_once FOLDER LIST COMMAND...: has COMMAND fill FOLDER, which is kept until LIST, the file with
# the pinned versions, changes.
install_once() {
    local folder="$1" list="$2"
    shift 2
    cmp -s "$list" "$folder/installed" && return
    step "installing into $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" "$folder"; then
        cp "$list" "$folder/installed"
    else
        rm -rf "$folder"
        echo "not available here: continuing without it"
    fi
}
