#!/usr/bin/env bash
# What CI cannot run: the tests that depend on the device, on a host with one or two NVIDIA GPUs.
#
#   scripts/gpu_check.sh [pytest options]        with SGLang patched (python -m sglang_mezo_plugin.patch apply)
#
# PYTHON names the interpreter that has SGLang; ATTENTION lists attention backends to try (default: triton).
# The tests that the patches bring run with torch_native attention, which keeps fp32 on a GPU as on a CPU, so
# that their bounds hold; those of the engine run so too, and then with the host's own kernels, whose TF32 is too
# coarse for a derivative. TP 2 and DP 2 need two GPUs. Some fifteen minutes.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
status=0
# sgl_kernel's norms take half precision only; the tests score in fp32, against transformers.
export SGLANG_FORCE_FUSED_OP_BACKEND=torch

run() {
    echo "== $*"
    "$python" -m pytest -q -W ignore --tb=short --show-capture=no -p no:cacheprovider "$@" 2>&1 | tail -n 15 || status=1
}

gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$python" -c 'import sglang, torch, transformers; print("sglang", sglang.__version__, "torch", torch.__version__, "transformers", transformers.__version__)'

run tests/noise/test_noise_backends.py tests/noise/test_noise_errors.py tests/noise/test_step_numbers.py -k "not interpreted" "$@"
run tests/engine --attention-backend torch_native "$@"
run tests/engine/lora/test_lora.py --attention-backend torch_native --lora-backend torch_native "$@"
for attention in ${ATTENTION:-triton}; do
    for lora in triton csgmv; do
        run tests/engine --ignore tests/engine/dense/test_dense_updates.py --ignore tests/engine/ranks/test_ranks.py -k "not derivative" --attention-backend "$attention" --lora-backend "$lora" "$@"
    done
done
run tests/upstream --attention-backend torch_native "$@" \
    -k "(opt or lora_module or lora_target or lora_config or lora_gpt2 or tiny_model_runner) and not server and not tensor_parallel"
[ "$gpus" -lt 2 ] || run tests/upstream --attention-backend torch_native "$@" -k "tp2 or tensor_parallel"
exit $status
