# shellcheck shell=bash
# Sourced by scripts that build for Windows, or run the results, on Debian and Ubuntu. They use Debian's Rust
# with the sources of its standard library, because it needs no other download, and MinGW's linker. This
# applies only to the commands below, so another Rust on PATH is not affected.

. packaging/tools.bash

windows_triple=x86_64-pc-windows-gnu

need_windows_compiler() {
    need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
    need cc gcc libc6-dev
    [ -x /usr/bin/cargo ] || missing+=(cargo-web)
    [ -x /usr/bin/rustc ] || missing+=(rustc-web)
    compgen -G "/usr/src/rustc-*/library/std" >/dev/null || missing+=(rust-web-src)
}

need_wine() {
    [ -x /usr/lib/wine/wine64 ] || missing+=(wine64)
}

windows_target() { # the folder of what is built for Windows; another Rust's artefacts are of no use there
    echo "${WINDOWS_TARGET_DIR-$(target_folder)/windows}"
}

windows_cargo() { # <subcommand> [argument]...
    local subcommand=$1
    shift
    env RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1 \
        CARGO_TARGET_DIR="$(windows_target)" \
        CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc \
        CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc AR_x86_64_pc_windows_gnu=x86_64-w64-mingw32-ar \
        /usr/bin/cargo "$subcommand" --locked -Zbuild-std=std,panic_unwind,test --target "$windows_triple" "$@"
}

wine_prefix() { # a separate Wine prefix, created once; sets WINEPREFIX
    export WINEPREFIX=${WINEPREFIX-$(windows_target)/wine} WINEDEBUG=${WINEDEBUG--all}
    local system32=$WINEPREFIX/drive_c/windows/system32
    if [ ! -d "$system32" ]; then
        mkdir -p "$WINEPREFIX"
        # The first start creates the prefix. It may offer components that are not needed here.
        WINEDLLOVERRIDES="mscoree=;mshtml=" /usr/lib/wine/wine64 cmd /c exit </dev/null >/dev/null 2>&1
    fi
    # Wine 8 lacks this library, which every program of a current Rust loads.
    if [ ! -e "$system32/bcryptprimitives.dll" ]; then
        x86_64-w64-mingw32-gcc -shared -o "$system32/bcryptprimitives.dll" \
            packaging/windows/bcryptprimitives.c -ladvapi32
    fi
}

in_wine() { # <program> [argument]...
    /usr/lib/wine/wine64 "$@"
}
