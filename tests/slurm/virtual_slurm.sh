# shellcheck shell=bash
# A private Slurm on this machine, to be sourced: one controller, virtual nodes node1..nodeN (a slurmd each, at ports of
# their own), munge with a key of its own. It shares no file, port or service with a Slurm that the machine may run.
#
#   virtual_slurm_missing            prints what is missing here, nothing when it can be tried
#   virtual_slurm_start DIR N CPUS   starts it below the empty folder DIR and waits until all nodes are idle; sets
#                                    SLURM_CONF. Returns 1 with logs on stderr when it does not come up.
#   virtual_slurm_stop               cancels jobs, ends the processes that start began; safe at any time
#   virtual_slurm_logs               the last lines of every daemon's log
virtual_slurm_pids=()
virtual_slurm_dir=""

virtual_slurm_missing() {
    local program
    PATH=$PATH:/usr/sbin:/sbin
    for program in slurmctld slurmd munged sbatch srun scontrol sinfo squeue scancel; do
        command -v $program > /dev/null || printf '%s ' $program
    done
}

# The first of N+1 ports in a row that nobody listens on.
virtual_slurm_ports() {
    local base try port is_free
    for try in {1..50}; do
        base=$((20000 + (RANDOM * 7 + $$ + try) % 12000))
        is_free=yes
        for ((port = base; port <= base + $1; port++)); do
            if (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then is_free=no; fi
        done
        if [ $is_free = yes ]; then echo $base; return 0; fi
    done
    return 1
}

virtual_slurm_config() {
    local dir=$1 n=$2 cpus=$3 base=$4 host i
    host=$(hostname -s)
    cat << C
ClusterName=virtual
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
C
    for ((i = 1; i <= n; i++)); do
        echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + i)) CPUs=$cpus"
    done
    echo "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE"
}

virtual_slurm_start() {
    local dir=$1 n=$2 cpus=$3 base i
    virtual_slurm_dir=$dir
    mkdir -p "$dir"/{state,munge,log}
    chmod 0755 "$dir" "$dir/munge"
    base=$(virtual_slurm_ports "$n") || { echo "no free ports" >&2; return 1; }
    virtual_slurm_config "$dir" "$n" "$cpus" "$base" > "$dir/slurm.conf"
    export SLURM_CONF=$dir/slurm.conf
    (umask 077 && head -c 1024 /dev/urandom > "$dir/munge/key")
    munged --foreground --force --num-threads=2 --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munge/pid" --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed" \
        > "$dir/log/munged.out" 2>&1 < /dev/null &
    virtual_slurm_pids+=($!)
    for i in {1..50}; do
        [ -S "$dir/munge/socket" ] && break
        sleep 0.1
    done
    slurmctld -D > "$dir/log/slurmctld.out" 2>&1 < /dev/null &
    virtual_slurm_pids+=($!)
    for ((i = 1; i <= n; i++)); do
        mkdir "$dir/spool-node$i"
        slurmd -D -N "node$i" > "$dir/log/slurmd-node$i.out" 2>&1 < /dev/null &
        virtual_slurm_pids+=($!)
    done
    for i in {1..60}; do
        [ "$(sinfo --noheader --Node --states=idle --format=%N 2> /dev/null | sort -u | wc -l)" = "$n" ] && return 0
        sleep 0.5
    done
    echo "the nodes are not idle after 30 s" >&2
    sinfo --Node --long >&2 || true
    virtual_slurm_logs >&2
    return 1
}

virtual_slurm_logs() {
    local file
    for file in "$virtual_slurm_dir"/log/*; do
        [ -s "$file" ] || continue
        echo "--- $(basename "$file")"
        tail -n 15 "$file"
    done
}

virtual_slurm_stop() {
    local i pid
    [ ${#virtual_slurm_pids[@]} -gt 0 ] || return 0
    if [ -n "$(timeout 5 squeue --noheader 2> /dev/null)" ]; then
        timeout 5 scancel --user="$(id -un)" 2> /dev/null || true
        for i in {1..20}; do
            [ -n "$(timeout 5 squeue --noheader 2> /dev/null)" ] || break
            sleep 0.5
        done
    fi
    # Last started, first stopped: munge goes last.
    for ((i = ${#virtual_slurm_pids[@]} - 1; i >= 0; i--)); do
        kill "${virtual_slurm_pids[i]}" 2> /dev/null || true
    done
    for i in {1..50}; do
        for pid in "${virtual_slurm_pids[@]}"; do
            if kill -0 "$pid" 2> /dev/null; then sleep 0.1; continue 2; fi
        done
        break
    done
    for pid in "${virtual_slurm_pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done
    wait "${virtual_slurm_pids[@]}" 2> /dev/null || true
    virtual_slurm_pids=()
}
