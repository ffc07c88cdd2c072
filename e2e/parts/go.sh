# shellcheck shell=bash
# Go programs, for the scripts that source this.

# go_install BINARY MODULE VERSION: builds MODULE at VERSION as BINARY; does nothing where that version is there. The caller has a `die`.
go_install() {
  local folder
  if [ "$(cat "$1.version" 2>/dev/null)" = "$3" ] && [ -x "$1" ]; then return; fi
  command -v go >/dev/null || die "go not found: apt-get install golang (Debian 13; on Debian 12 from bookworm-backports)"
  case $(go env GOVERSION) in
    go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.20*) die "$(go env GOVERSION) is too old: 1.21 or newer fetches by itself what a program asks for" ;;
  esac
  mkdir -p "$(dirname "$1")"
  folder=$(cd "$(dirname "$1")" && pwd)
  # Debian sets GOTOOLCHAIN=local.
  GOBIN=$folder GOTOOLCHAIN=auto go install -trimpath -ldflags="-s -w" "$2@$3" >&2
  echo "$3" >"$1.version"
}
