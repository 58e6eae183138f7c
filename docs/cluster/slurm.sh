#!/bin/bash
# A sweep on four nodes of a Slurm cluster: sbatch docs/cluster/slurm.sh
#SBATCH --job-name=lfm --nodes=4 --ntasks-per-node=1 --exclusive --gpus-per-node=4 --time=12:00:00 --requeue
set -euo pipefail
export RAY_AUTH_MODE=token  # the token is in ~/.ray/auth_token, which the nodes share: ray get-auth-token --generate
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A job that is started again goes on with its sweep.
if [ -e sweeps/mine/sweep.yaml ]; then sweep=(--resume mine); else sweep=(--name mine --data shards/mine); fi
srun --ntasks="$SLURM_JOB_NUM_NODES" ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    python -m lfm_ray.tune "${sweep[@]}" --address auto --gpus-per-worker 1
