# shellcheck shell=bash
# Sourced: a Debian machine with systemd as process 1, in a container of systemd-nspawn, with a separate root
# and no network except loopback. Needs root.

[ "$(id -u)" = 0 ] || { echo "error: run this as root; it starts containers" >&2; exit 1; }
. packaging/tools.bash
need dpkg-deb dpkg
need mmdebstrap mmdebstrap
need nsenter util-linux
need systemd-nspawn systemd-container
install_needed

target=$(target_folder)
name=seal-dpf-urlcallback
folder=$(mktemp -d)
machine=
leader=
trap '[ -z "$leader" ] || kill -KILL "$leader" 2>/dev/null; stop_machine; rm -rf "$folder"' EXIT

base() { # a root with systemd, built once; removed by hand when it is to be renewed
    local tar=$target/packaging/machine.tar suite
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    if ! [ -e "$tar" ]; then
        mkdir -p "$target/packaging"
        mmdebstrap --quiet --variant=minbase \
            --include=ca-certificates,curl,dbus,logrotate,nginx-light,openssl,postgresql,rpm,systemd-sysv "$suite" "$tar.new.tar"
        mv "$tar.new.tar" "$tar"
    fi
    echo "$tar"
}

start_machine() { # boots the root in $folder/root, which is made if there is none
    if ! [ -e "$folder/root" ]; then
        mkdir "$folder/root"
        tar -xf "$(base)" -C "$folder/root"
    fi
    # systemd requires the unified hierarchy of control groups, and nspawn a writable /run; in a mount
    # namespace both are possible on any machine.
    # shellcheck disable=SC2016
    unshare --mount bash -c '
        mount -t tmpfs none /run
        if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
            umount --recursive /sys/fs/cgroup
            mount -t cgroup2 none /sys/fs/cgroup
        fi
        exec systemd-nspawn --quiet --register=no --keep-unit --private-network --console=passive \
            --directory="$1" --boot' - "$folder/root" >"$folder/console" 2>&1 </dev/null &
    machine=$!
    until leader=$(pgrep --parent "$machine") && inside systemctl is-system-running --wait 2>/dev/null |
        grep -qx 'running\|degraded'; do
        kill -0 "$machine" || { cat "$folder/console" >&2; exit 1; }
        sleep 0.2
    done
}

stop_machine() {
    [ -n "$machine" ] || return 0
    # SIGRTMIN+4 asks systemd to power off.
    kill -s RTMIN+4 "$leader" 2>/dev/null || true
    wait "$machine" || true
    machine=
    leader=
}

inside() { # runs a command on the machine
    nsenter --target "$leader" --all -- env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"
}

callbacks() { # the program on the machine, with its settings
    inside $name --config /etc/urlcallback/config.toml "$@"
}

submit() { # <job> <URL>
    callbacks submit --event job_sending --job-id "$1" --job-id-fs "$1" -s "DpfControlCallbackUrl=$2"
}

await() { # <seconds> <what> <command>...
    local seconds=$1 what=$2
    shift 2
    for _ in $(seq $((seconds * 5))); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "not within $seconds seconds: $what"
}

fail() {
    echo "failed: $*" >&2
    inside journalctl --no-pager --unit $name --lines 20 >&2 || true
    exit 1
}

check() { # <what> <command>...
    local what=$1
    shift
    "$@" >"$folder/checked" 2>&1 || { cat "$folder/checked" >&2; fail "$what"; }
    echo "  $what"
}

shown() { # a property of the service
    inside systemctl show --property "$1" --value $name
}
