#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests. As root: slurm.sh start FOLDER | slurm.sh stop FOLDER
# Needs Debian's packages slurm-wlm and munge. Partitions: debug, and short with a walltime of one minute.
set -euo pipefail

command=${1:?start or stop}
folder=$(realpath -m "${2:?folder for state and logs}")

start() {
  # One pattern each: pgrep takes none of more than 15 characters.
  if pgrep -x slurmctld >/dev/null || pgrep -x slurmd >/dev/null; then
    echo "a Slurm runs here already" >&2
    exit 1
  fi
  mkdir -p "$folder"/{state,spool} /run/munge
  chown munge: /run/munge /var/lib/munge /var/log/munge /etc/munge
  if ! pgrep -x munged >/dev/null; then
    setpriv --reuid munge --regid munge --clear-groups munged
    pgrep -x munged >"$folder/munged.pid"
  fi
  name=$(hostname -s)
  cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MinJobAge=10
KillWait=2
InactiveLimit=0
SlurmdParameters=config_overrides
NodeName=$name NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000
PartitionName=debug Nodes=$name Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4
PartitionName=short Nodes=$name MaxTime=1 OverSubscribe=FORCE:4
CONF
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    if sinfo --noheader --format=%t 2>/dev/null | grep -q '^idle'; then
      exit 0
    fi
    sleep 0.5
  done
  echo "Slurm does not come up; see $folder/*.log" >&2
  exit 1
}

stop() {
  for daemon in slurmd slurmctld munged; do
    if [ -f "$folder/$daemon.pid" ]; then
      pid=$(cat "$folder/$daemon.pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 40); do
        [ -d "/proc/$pid" ] || break
        sleep 0.25
      done
    fi
  done
}

"$command"
