# shellcheck shell=bash
# Sourced by scripts of this project: installs the tools that they need. Programs come from Debian's packages
# (on other systems the missing ones are listed), cargo's subcommands from crates.io, built once.

missing=()

need() { # <command> <Debian package>...: the packages bring the command
    command -v "$1" >/dev/null || missing+=("${@:2}")
}

install_needed() {
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    if ! command -v apt-get >/dev/null; then
        echo "install: ${missing[*]} (names of Debian's packages)" >&2
        exit 1
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    missing=()
}

target_folder() { # where cargo puts what it builds
    cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

cargo_tools() { # <folder> <crate@version>...: the crates' programs are in <folder>/bin
    local folder=$1 tool wanted=()
    shift
    for tool; do
        grep -qs "^\"${tool/@/ } " "$folder/.crates.toml" || wanted+=("$tool")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    # Not optimized: they run for seconds only, so an optimized build would not pay off.
    cargo install --quiet --locked --profile dev --root "$folder" --target-dir "$folder/build" "${wanted[@]}"
    rm -r "$folder/build"
}

python_tools() { # <folder> <file of requirements with hashes>: the packages' programs are in <folder>/bin
    cmp -s "$2" "$1/installed" && return
    rm -rf "$1"
    python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target "$1" --requirement "$2" \
        --root-user-action ignore
    cp "$2" "$1/installed"
}
