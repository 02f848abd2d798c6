# What the experiments share: sourced, with OUT set; leaves the shell in that folder.
# ROWS="masked supervised" makes and scores these rows alone, by the names that they have in the script.
set -euo pipefail
CONFIGS="$(cd "$(dirname "$0")/../configs" && pwd)"
export OMP_NUM_THREADS=${THREADS:-1} OMP_WAIT_POLICY=PASSIVE

begin() {  # MODELS SETTINGS: names of variables; models may be folders
  local name
  for name in ${ROWS:-}; do grep -qw -- "$name" "$0" || { echo "ROWS: $name is no row of $0" >&2; exit 1; }; done
  for name in $1; do [ ! -e "${!name}" ] || printf -v "$name" %s "$(realpath "${!name}")"; done
  mkdir -p "$OUT/logs" && cd "$OUT"
  # Another run with other settings would mix two: it needs a folder of its own.
  for name in $1 $2; do echo "$name=${!name}"; done > logs/settings.new
  [ ! -f logs/settings ] || cmp -s logs/settings logs/settings.new || { echo "$PWD has other settings: give another OUT" >&2; exit 1; }
  mv logs/settings.new logs/settings
}
once() {  # NAME COMMAND ...: a step with a log of its own
  local name=$1; shift
  [ -f "logs/$name.done" ] && return
  echo "$(date +%T) $name"
  "$@" >> "logs/$name.log" 2>&1 || { echo "failed, see $PWD/logs/$name.log" >&2; return 1; }
  touch "logs/$name.done"
}
wanted() { [ -z "${ROWS:-}" ] || [[ " $ROWS " == *" $1 "* ]]; }  # ROW: of those in ROWS, of all without it
rooms() {  # FOLDER FIRST COUNT
  local n
  for n in $(seq "$2" $(($2 + $3 - 1))); do
    [ -d "rooms/$1/$n/sequence" ] || scene-completion world room --seed "$n" --frames "$FRAMES" --rate 0.6 \
      --size 320 240 --supersampling 1 --output "rooms/$1/$n" >> logs/rooms.log 2>&1
  done
}
