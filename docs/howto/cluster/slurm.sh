#!/bin/bash
# A study that outlives its job's time and preemption: sbatch slurm.sh study=tradeoff data=mnist
# Two minutes before its end Slurm sends SIGUSR1 to this script (B:), which passes it on to the driver. Packs write down
# where they stand, and the job is queued again; it keeps its number, by which the next one finds the run to go on with.
#SBATCH --job-name=gimtune
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=16
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

storage=${GIMTUNE_STORAGE:-$HOME/results}
name=slurm-$SLURM_JOB_ID
store=$(ls "$storage/$name"/*/study.db 2>/dev/null | tail -n 1)
if [ -n "$store" ]; then
    set -- "resume='${store%/study.db}'"
else
    set -- "$@" "name=$name" "storage_path='$storage'"
fi

python -m gimtune "$@" &
driver=$!
trap 'kill -USR1 $driver' USR1 TERM
wait $driver
code=$?
# a signal ends `wait`, and not yet the driver
while kill -0 $driver 2>/dev/null; do
    wait $driver
    code=$?
done
case $code in
    138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $code
