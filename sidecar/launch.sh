#!/bin/sh
# The first process of a workload's container: launch.sh COMMAND [ARGUMENT...]
#
# It gives the workload its standard input (a pipe that the sidecar writes to) and sends its output to a file that the sidecar reads:
# directly (process), or through a session that people can attach to (screen, tmux). It reaps, passes SIGTERM and SIGINT on, and ends with
# the workload's exit code; 128 + n stands for signal n. POSIX sh: it runs in busybox and in Debian's dash, and needs nothing else but
# cat, date, mv, rm and tail; for a stop command sleep; for screen and tmux also dd, mkfifo, sleep and stty.
#
#   RINGMASTER_DIR      the shared volume, /ringmaster
#   RINGMASTER_RUNTIME  process, screen or tmux
#   RINGMASTER_ID       id of the Instance; the session is named ringmaster-ID
#   RINGMASTER_MIRROR   true: copy the log to the container's standard output
#   RINGMASTER_STOP_COMMAND        a line that is typed at SIGTERM, which is passed on only if the workload does not end by it
#   RINGMASTER_STOP_GRACE_SECONDS  in this time, 30
#
# In the volume: `stdin` (the pipe), `log`, `terminal` (what screen and tmux write; the sidecar makes `log` of it), `run/`.
set -u

dir=${RINGMASTER_DIR:-/ringmaster}
runtime=${RINGMASTER_RUNTIME:-process}
session=ringmaster-${RINGMASTER_ID:-instance}
mirror=${RINGMASTER_MIRROR:-false}
stop_command=${RINGMASTER_STOP_COMMAND-}
stop_grace=${RINGMASTER_STOP_GRACE_SECONDS:-30}
unset RINGMASTER_DIR RINGMASTER_RUNTIME RINGMASTER_ID RINGMASTER_MIRROR RINGMASTER_STOP_COMMAND RINGMASTER_STOP_GRACE_SECONDS
run=$dir/run
log=$dir/log
mark=$(printf '\033_ringmaster:end\033\\')
newline='
'
missing_code=78
starts_max=10000
columns=300
rows=50
workload=
is_started=
waiting_signals=
mirror_pid=
typing_pid=
grace_pid=
out=$log
[ "$runtime" = process ] || out=$dir/terminal

size_of() {
  stat -c %s "$1" 2>/dev/null || echo 0
}

# What the sidecar's status is made of. $1: the exit code, once there is one.
note() {
  {
    printf 'starts=%s\nstarted=%s\n' "$starts" "$started"
    [ -z "${1-}" ] || printf 'code=%s\nexited=%s\n' "$1" "$(date +%s)"
  } >"$run/workload.new" && mv -f "$run/workload.new" "$run/workload"
}

# Where this run's output begins, before anything of it can be there: the sidecar tells its readers of a restart at this place. Replaced whole, so
# that neither the sidecar nor a kill at any moment sees a part of it.
note_start() {
  {
    tail -n "$((starts_max - 1))" "$run/starts" 2>/dev/null
    printf '%s %s\n' "$starts" "$(size_of "$out")"
  } >"$run/starts.new" && mv -f "$run/starts.new" "$run/starts"
}

# The runtime cannot start in this image, and trying again will not help: one clear line, a marker, an exit code of its own.
fault() {
  printf '[ringmaster] %s\n' "$1" >>"$out"
  end_terminal
  printf '%s\n' "$1" >"$run/fault.new" && mv -f "$run/fault.new" "$run/fault"
  # Where the kubelet looks for a container's last words.
  [ ! -w /dev/termination-log ] || printf '%s\n' "$1" >/dev/termination-log
  [ -z "$workload" ] || kill "$workload" 2>/dev/null
  leave "$missing_code"
}

# The sidecar writes down how far it is when it meets the mark: nothing more will come.
end_terminal() {
  [ "$out" = "$log" ] || printf %s "$mark" >>"$out"
}

leave() {
  end_stop
  # The pipe is closed first: from here on the workload does not run.
  exec 3<&-
  note "$1"
  stop_mirror
  exit "$1"
}

# An earlier run may have ended in the middle of a line: the first line of this one must not be taken for its end.
end_last_line() {
  last=$(tail -c 64 "$out" 2>/dev/null | tr -d '\000'; printf .)
  last=${last%.}
  last=${last%"$mark"}
  case $last in
    '' | *"$newline") ;;
    *) printf '\n' >>"$out" ;;
  esac
}

# A reader of its own: if nobody takes the container's output, this process waits, and the workload never does.
start_mirror() {
  [ "$mirror" = true ] || return 0
  # Known before the fork: what is expanded behind it may be looked at when the workload has already written.
  mirror_from=$(($(size_of "$log") + 1))
  tail -c "+$mirror_from" -f "$log" 2>/dev/null 3<&- &
  mirror_pid=$!
}

# Lets the mirror copy what the workload wrote last: as long as it gets on, for ten seconds at most; two seconds without a step are the end.
stop_mirror() {
  [ -n "$mirror_pid" ] || return 0
  tries=0
  looks=0
  seen=
  while [ "$tries" -lt 20 ] && [ "$looks" -lt 100 ]; do
    is_taken_over && is_mirrored && break
    # Nothing else of what the kernel counts: some mirrors look for more each second.
    at=$(cat "/proc/$mirror_pid/io" "/proc/$mirror_pid/fdinfo/"* 2>/dev/null | grep -e '^wchar:' -e '^pos:')
    [ "$at" = "$seen" ] || tries=0
    seen=$at
    tries=$((tries + 1))
    looks=$((looks + 1))
    sleep 0.1
  done
  sleep 0.1
  kill "$mirror_pid" 2>/dev/null
}

# Whether the mirror has written the whole log. What it has read may still wait in it for a collector that takes its time, so where it stands in the file
# counts only where the kernel does not say what it wrote.
is_mirrored() {
  written=
  if [ -r "/proc/$mirror_pid/io" ]; then
    while read -r name count; do
      [ "$name" != wchar: ] || written=$count
    done <"/proc/$mirror_pid/io"
  fi 2>/dev/null
  if [ -n "$written" ]; then
    [ "$written" -ge $(($(size_of "$log") - mirror_from + 1)) ]
  else
    grep -qs "^pos:[[:space:]]*$(size_of "$log")\$" "/proc/$mirror_pid/fdinfo/"*
  fi
}

# Whether the sidecar has made the log of all that the session wrote.
is_taken_over() {
  [ "$out" != "$log" ] || return 0
  taken=
  read -r taken _ 2>/dev/null <"$run/ingested"
  [ "${taken:-0}" -ge "$(size_of "$out")" ]
}

# Waits for a child and sets `code`. A trapped signal ends `wait` early, so its answer counts only once the child is gone.
await() {
  while :; do
    wait "$1"
    code=$?
    [ "$code" -gt 128 ] && kill -0 "$1" 2>/dev/null && continue
    if [ "$code" -gt 128 ]; then
      # The signal and the end may have come together: the shell still knows the child's own answer, or says 127.
      wait "$1" 2>/dev/null
      again=$?
      [ "$again" -eq 127 ] || code=$again
    fi
    return 0
  done
}

# Passes a signal on. One that comes before there is a workload waits for it: it is said to run a moment before it does.
forward() {
  if [ -z "$is_started" ]; then
    waiting_signals="$waiting_signals $1"
    return
  fi
  # Before it says its pid, the workload is a shell that may still have the traps of this one, and would lose the signal.
  waits=0
  until [ -s "$run/pid" ]; do
    [ "$waits" -lt 200 ] && kill -0 "$workload" 2>/dev/null || break
    waits=$((waits + 1))
    sleep 0.05
  done
  if [ "$runtime" = process ]; then
    kill "-$1" "$workload" 2>/dev/null
  elif [ -s "$run/pid" ]; then
    kill "-$1" "$(cat "$run/pid")" 2>/dev/null
  fi
}

# From here on signals are passed on as they come, those first that came before.
note_started() {
  is_started=1
  for signal in $waiting_signals; do
    forward "$signal"
  done
}

# At SIGTERM: the stop command if there is one, and the signal itself only after the grace. A second SIGTERM is in a hurry.
stop() {
  if [ -z "$stop_command" ] || [ -n "$grace_pid" ]; then
    forward TERM
    return
  fi
  # In processes of their own: the pipe may be full, and this one must go on to wait for the workload.
  (
    trap - TERM INT
    printf '%s\n' "$stop_command" >&3
  ) >/dev/null 2>&1 &
  typing_pid=$!
  (
    sleep_pid=
    trap 'kill "$sleep_pid"; exit' TERM
    trap : INT
    sleep "$stop_grace" &
    sleep_pid=$!
    wait "$sleep_pid"
    # The second SIGTERM. By way of the launcher, which knows whether there is a workload yet.
    kill -TERM $$
  ) >/dev/null 2>&1 3<&- &
  grace_pid=$!
}

end_stop() {
  [ -n "$grace_pid" ] || return 0
  trap : TERM INT
  kill "$typing_pid" "$grace_pid" 2>/dev/null
  wait "$typing_pid" 2>/dev/null
}

run_process() {
  # A shell without job control starts background commands with SIGINT and SIGQUIT ignored. Only coreutils can undo that.
  if env --default-signal=INT,QUIT true 2>/dev/null; then
    set -- env --default-signal=INT,QUIT "$@"
  fi
  : >"$run/pid"
  (echo - >"$run/pid"; exec "$@") <&3 3<&- >>"$log" 2>&1 &
  workload=$!
  note_started
  await "$workload"
}

# Prints each argument as one word that sh reads back exactly.
quote() {
  for word in "$@"; do
    quoted=
    while :; do
      case $word in
        *\'*) ;;
        *) break ;;
      esac
      quoted=$quoted${word%%\'*}"'\\''"
      word=${word#*\'}
    done
    printf "'%s' " "$quoted$word"
  done
}

# What runs inside the session. No echo: what is typed is not part of the output. No line editing in the terminal: it would cut lines at
# 4094 bytes. Tabs stay tabs: screen's terminal would make blanks of them. No flow control: nobody who attaches can freeze the workload with ^S.
write_window() {
  (
    umask 077
    {
      printf 'echo $$ >%s\nexec ' "$(quote "$run/pid")"
      quote "$@"
      echo
    } >"$run/command"
    cat >"$run/window" <<END
run=$(quote "$run")
exec 9>"\$run/exit.pipe"
trap : INT QUIT
stty -echo -icanon -ixon min 1 time 0 opost onlcr -ocrnl -onocr -onlret tab0 cols $columns rows $rows
: >"\$run/window.started"
# A shell says aloud how its child was killed; that is not the program's output.
exec 2>/dev/null
(exec sh "\$run/command" 9>&- 2>&1)
code=\$?
printf %s "\$code" >&9
exec 9>&-
printf '\\033_ringmaster:end\\033\\\\'
exec sleep 60
END
    # In screen, the typist is a process that screen itself connects to the workload's input: screen stops reading from it while the
    # workload is slow, where its commands stuff and paste would drop what does not fit. Its own input is what people type, a terminal that passes
    # everything on; its output is the workload's terminal, which exec has made raw: Enter is a line end there, and ^C a signal, as before.
    cat >"$run/typist" <<END
run=$(quote "$run")
stty -echo -icanon -ixon isig icrnl min 1 time 0 opost onlcr tab0 <&1
stty raw -echo
: >"\$run/typist.started"
exec 4<&0
cat <&4 &
exec cat <$(quote "$dir/stdin")
END
    cat >"$run/screenrc" <<END
startup_message off
logfile flush 0
defscrollback 2000
defnonblock on
vbell off
autodetach on
END
  )
}

# Waits up to ten seconds for a file.
appears() {
  tries=0
  while [ ! -e "$1" ]; do
    [ "$tries" -lt 200 ] || return 1
    tries=$((tries + 1))
    sleep 0.05
  done
}

session_fault() {
  said=$(head -n 1 "$run/session.out" 2>/dev/null | tr -d '\r')
  fault "Cannot start the runtime \"$runtime\": ${said:-the session did not start}"
}

start_screen() {
  SCREENDIR=${SCREENDIR:-$run/screen}
  export SCREENDIR
  [ -d "$SCREENDIR" ] || mkdir -m 700 "$SCREENDIR"
  screen -wipe >/dev/null 2>&1 3<&-
  screen -U -c "$run/screenrc" -dmS "$session" -L -Logfile "$out" sh "$run/window" >"$run/session.out" 2>&1 3<&- || session_fault
  appears "$run/window.started" || session_fault
  screen -S "$session" -X exec '.!!' sh "$run/typist" >>"$run/session.out" 2>&1 3<&-
  appears "$run/typist.started" || session_fault
}

start_tmux() {
  TMUX_TMPDIR=${TMUX_TMPDIR:-$run}
  export TMUX_TMPDIR
  printf 'set -g history-limit 2000\n' >"$run/tmux.conf"
  # The size stays, whoever attaches: a program must not wrap its lines to somebody's window. As a setting in the file it crashes tmux 3.3.
  tmux -u -f "$run/tmux.conf" new-session -d -s "$session" -x "$columns" -y "$rows" sh "$run/window" \; \
    set-option -w -t "$session" window-size manual \; \
    pipe-pane -o -t "$session" "exec cat >>$(quote "$out")" >"$run/session.out" 2>&1 3<&- || session_fault
  appears "$run/window.started" || session_fault
  # Only reading: when this process closes the pipe, the typist sees its end.
  (exec 3<&- && type_tmux) <"$dir/stdin" >/dev/null 2>&1 &
}

# Byte for byte: a paste buffer knows no key names, and -r keeps the line ends as they are. The file has this launcher's name: where launchers share
# a process table, the typist of the one before may still read, and two must not empty each other's.
type_tmux() {
  typing=$run/typing.$$
  while dd bs=4096 count=1 of="$typing" 2>/dev/null && [ -s "$typing" ]; do
    until tmux load-buffer -b ringmaster "$typing" \; paste-buffer -r -d -b ringmaster -t "$session" 2>/dev/null </dev/null; do
      tmux has-session -t "$session" 2>/dev/null </dev/null || return 0
      sleep 0.1
    done
  done
}

end_session() {
  case $runtime in
    screen) screen -S "$session" -X quit >/dev/null 2>&1 3<&- ;;
    tmux) tmux kill-session -t "$session" >/dev/null 2>&1 3<&- ;;
  esac
}

# Waits up to ten seconds until the mark, the last thing that the window writes, has come through the session into the file.
await_mark() {
  tries=0
  while [ "$tries" -lt 200 ]; do
    fresh=$(($(size_of "$out") - size_before))
    [ "$fresh" -lt 64 ] || fresh=64
    case $(tail -c "$fresh" "$out" | tr -d '\000') in
      *"$mark"*) return 0 ;;
    esac
    tries=$((tries + 1))
    sleep 0.05
  done
}

run_session() {
  command -v "$runtime" >/dev/null 2>&1 || fault "Cannot start the runtime \"$runtime\": the image has no \"$runtime\" in its PATH"
  rm -f "$run/pid" "$run/exit" "$run/exit.pipe" "$run/window.started" "$run/typist.started" "$run/session.out"
  write_window "$@"
  mkfifo -m 600 "$run/exit.pipe"
  size_before=$(size_of "$out")
  cat "$run/exit.pipe" >"$run/exit" 3<&- &
  workload=$!
  "start_$runtime"
  note_started
  await "$workload"
  code=
  read -r code <"$run/exit"
  if [ -n "$code" ]; then
    await_mark
  else
    # Nothing was written: the session was killed, and the workload with it.
    code=137
    end_terminal
  fi
  end_session
}

[ "$#" -gt 0 ] && [ "$1" = -- ] && shift
# Reading and writing: the pipe has a reader and a writer as long as this process lives, so nobody sees an end or waits for the other.
exec 3<>"$dir/stdin"
trap stop TERM
trap 'forward INT' INT
starts=0
while IFS='=' read -r key value; do
  [ "$key" != starts ] || starts=$value
done 2>/dev/null <"$run/workload"
starts=$((starts + 1))
started=$(date +%s)
rm -f "$run/fault"
end_last_line
note_start
start_mirror
case $runtime in
  process | screen | tmux) ;;
  *)
    out=$log
    fault "Cannot start the runtime \"$runtime\": there is no such runtime"
    ;;
esac
[ "$#" -gt 0 ] || fault 'Cannot start the workload: the Instance names no command'
note
if [ "$runtime" = process ]; then
  run_process "$@"
else
  run_session "$@"
fi
leave "$code"
