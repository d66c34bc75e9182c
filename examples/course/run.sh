#!/bin/sh
# The whole course: raw preference rows -> reward model -> its evaluation -> SFT -> DPO -> both policies before two
# reward models -> one report.
#
#   POLICY=stories260k DATA=align_anything_style.jsonl.gz CHAT_TEMPLATE=transcript sh examples/course/run.sh
#
# POLICY         folder or hub name of a causal language model
# DATA           JSON lines of pairs: question, response_1, response_2, overall_response (1 or 2), as align-anything
#                has them, or any other format of pairs
# PROMPT         the column of the prompts (question)
# OUT            where everything goes (runs/course)
# CHAT_TEMPLATE  chatml, transcript or a Jinja file, for a model without a template of its own
# MAX_LENGTH     tokens of prompt and response (448)
# Killed at any time, the same command goes on where it was.
set -eu
: "${POLICY:?a folder or hub name of a language model}" "${DATA:?a file of align-anything rows}"
out=${OUT:-runs/course}
here=$(dirname "$0")
length=${MAX_LENGTH:-448}
template=${CHAT_TEMPLATE:+--data.chat_template $CHAT_TEMPLATE}
align="${LIT_ALIGN:-lit-align}"
configs=$here/../../configs

# Steps that are done stay done, so a folder holds one course only.
course="$POLICY $DATA ${PROMPT:-question} ${CHAT_TEMPLATE:-} $length ${REWARD_LR:-} ${SFT_LR:-} ${DPO_LR:-}"
if [ -e "$out/.done/course" ] && [ "$(cat "$out/.done/course")" != "$course" ]; then
    echo "$out holds another course: $(cat "$out/.done/course"); choose another OUT, or remove it" >&2
    exit 2
fi
mkdir -p "$out/.done" && echo "$course" > "$out/.done/course"

done_once() { # a step that is left out once it has come to its end
    name=$1; shift
    [ -e "$out/.done/$name" ] && return
    echo "== $name"
    "$@"
    touch "$out/.done/$name"
}
settings="$template --data.max_length $length --data.max_prompt_length $((length / 3)) --data.on_overlong truncate
    --data.validation $out/data/heldout.jsonl --trainer.accumulate_grad_batches 1"

train() { # method, starting model, run folder, further settings
    method=$1 model=$2 run=$3; shift 3
    # shellcheck disable=SC2086 - settings are words
    $align fit --config "$configs/$method.yaml" --model.policy "$model" --data.train "$out/data/train.jsonl" $settings \
        --trainer.default_root_dir "$run" --ckpt_path last "$@"
}

score() { # where the scores go, further settings
    scores=$1; shift
    # shellcheck disable=SC2086
    $align score "$@" $settings --data.predict "$out/data/heldout.jsonl" --out "$scores"
}

# 1. Rows that are looked at before anything is trained on them.
done_once split "${PYTHON:-python3}" "$here/split.py" "$DATA" "$out/data" 0.2 "${PROMPT:-question}"

# 2. A reward model, and the same before training, which knows nothing.
done_once reward_model train bradley_terry "$POLICY" "$out/reward_model" \
    --model.learning_rate "${REWARD_LR:-4e-4}" --data.batch_size 8 --trainer.max_epochs 2
done_once reward_model_export $align export "$out/reward_model" --out "$out/reward_model/export"
done_once scores_untrained score "$out/rewards/untrained.jsonl" \
    --config "$configs/bradley_terry.yaml" --model.policy "$POLICY"
done_once scores_trained score "$out/rewards/trained.jsonl" --config "$out/reward_model/config.yaml" --ckpt_path last
done_once rewards $align evaluate rewards untrained="$out/rewards/untrained.jsonl" trained="$out/rewards/trained.jsonl" \
    --embed "$POLICY" --out "$out/rewards" --title "Reward models on held-out pairs"

# 3. A policy: taught to answer, then aligned.
done_once sft train sft "$POLICY" "$out/sft" --data.convert pairs_to_chosen \
    --model.learning_rate "${SFT_LR:-1e-3}" --data.batch_size 8 --trainer.max_epochs 2
done_once sft_export $align export "$out/sft" --out "$out/sft/export"
done_once dpo train dpo "$out/sft/export" "$out/dpo" \
    --model.learning_rate "${DPO_LR:-1e-4}" --data.batch_size 8 --trainer.max_epochs 1
done_once dpo_export $align export "$out/dpo" --out "$out/dpo/export"

# 4. Both answer the held-out prompts; both reward models judge the answers.
cat > "$out/judges.yaml" <<JUDGES
trained:
  class_path: RewardModelJudge
  init_args: {model: $out/reward_model/export}
untrained:
  class_path: RewardModelJudge
  init_args: {model: $POLICY, allow_new_head: true${CHAT_TEMPLATE:+, chat_template: $CHAT_TEMPLATE}}
JUDGES
# shellcheck disable=SC2086
done_once policies $align evaluate policies --prompts "$out/data/prompts.jsonl" --as_chat \
    --models sft="$out/sft/export" dpo="$out/dpo/export" --judges "$out/judges.yaml" --limit 100 \
    --max_new_tokens 64 --temperature 1.0 --batch_size 32 --out "$out/policies" --title "SFT and DPO"

# 5. One page.
$align report "$out/rewards" "$out/policies" "$out/reward_model" "$out/sft" "$out/dpo" --out "$out/report.html" \
    --title "From preference rows to an aligned model"
