#!/bin/sh
# Install packages of Debian or Ubuntu: apt-install.sh REASON PACKAGE...
# As root, or by sudo; where neither is there, say what to run. Servers among them are not started.
set -eu
reason="$1"
shift

say() { printf '%s\n' "setup: $reason; $*" >&2; }

command -v apt-get >/dev/null || { say "install what Debian calls $*, and try again"; exit 1; }
as_root=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "run as root: apt-get install $*"; exit 1; }
    as_root="sudo"
fi
say "installing $*"
policy=/usr/sbin/policy-rc.d # asked before a package starts its server
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
fi
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
