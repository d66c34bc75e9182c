"""What a row of each format means: one function per family of formats, from fields to a canonical row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_align.data.assemble import (
    HARMLESS,
    build_pair,
    build_ranking,
    build_row,
    build_single,
    same_response,
    with_safety,
)
from lit_align.data.canonical import (
    IDENTICAL,
    NO_SHARED_PROMPT,
    NO_TURN,
    REPEATED_PROMPT,
    SAME_PARAPHRASE,
    UNDECIDED,
    UNSCORED_RESPONSE,
    CanonicalRow,
    Completion,
    Dropped,
    Message,
)
from lit_align.data.conversation import (
    check_answer,
    check_order,
    check_prompt_end,
    is_transcript,
    last_answer,
    parse_transcript,
    shared_text,
    shared_turns,
)
from lit_align.data.fields import Fields, is_json_list
from lit_align.data.second_prompt import put_before, reword


def pairs(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`chosen`, `rejected` and perhaps `prompt`, as texts or messages."""
    if conversational:
        return build_pair(fields, *_message_pair(fields))
    chosen, rejected = fields.response("chosen"), fields.response("rejected")
    if fields.has("prompt"):
        prompt = fields.text("prompt")
        if not fields.repeats_prompt:
            return build_pair(fields, prompt, chosen, rejected)
        for field, response in (("chosen", chosen), ("rejected", rejected)):
            if not _repeats(response, prompt):
                fix = "begin it with the prompt, remove the row, or take the prompt out of the responses of all rows"
                raise fields.error("a response does not begin with the prompt, as in the first rows", field, fix)
        cut = len(prompt)
        return build_pair(fields, prompt, chosen[cut:], rejected[cut:], {REPEATED_PROMPT: 1})
    if same_response(chosen, rejected):
        return Dropped(fields.row, IDENTICAL, chosen)
    cut = shared_text(chosen, rejected)
    if not cut:
        fix = "add a 'prompt' column, or map one with data.columns={prompt: ...}"
        raise fields.error("chosen and rejected do not begin with a prompt that they share", "prompt", fix)
    return build_pair(fields, chosen[:cut], chosen[cut:], rejected[cut:])


def transcripts(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`chosen` and `rejected` as transcripts of Anthropic's HH data, perhaps with their start in `prompt`."""
    sides = []
    for field in ("chosen", "rejected"):
        text, prompt = fields.response(field), fields.optional_text("prompt") or ""
        whole = text if text.startswith(prompt) else prompt + text
        if not is_transcript(whole):
            fix = "write it as '\\n\\nHuman: ...\\n\\nAssistant: ...' like the other rows, or remove the row"
            raise fields.error("a text is not a transcript", field, fix)
        sides.append(parse_transcript(whole))
    chosen, rejected = sides
    for turns in sides:
        answered = turns[0]["role"] == "user" and turns[-1]["role"] == "assistant"
        if not answered or not all(turn["content"] for turn in turns[:-1]):
            return Dropped(fields.row, NO_TURN, str(turns[-1]))
    shared = shared_turns(chosen, rejected)
    if not shared:
        return Dropped(fields.row, NO_SHARED_PROMPT, str(chosen[0]))
    return build_pair(fields, chosen[:shared], chosen[shared:], rejected[shared:])


def align_anything(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`question`, `response_1`, `response_2` and which of them is better, 1 or 2."""
    prompt = [_turn("user", fields.text("question"))]
    responses = [[_turn("assistant", fields.response(f"response_{number}"))] for number in (1, 2)]
    verdict = fields.number("overall_response")
    if verdict not in (1, 2):
        return Dropped(fields.row, UNDECIDED, f"overall_response {fields.values['overall_response']!r}")
    if verdict == 2:
        responses.reverse()
    return build_pair(fields, prompt, responses[0], responses[1])


def safe_rlhf(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """PKU-SafeRLHF's `prompt`, `response_0`, `response_1` and which of them is better, or safer, 0 or 1."""
    prompt = [_turn("user", fields.text("prompt"))]
    responses = [[_turn("assistant", fields.response(f"response_{number}"))] for number in (0, 1)]
    field = "better_response_id" if fields.has("better_response_id") else "safer_response_id"
    verdict = fields.number(field)
    if verdict not in (0, 1):
        return Dropped(fields.row, UNDECIDED, f"{field} {fields.values[field]!r}")
    chosen = int(verdict)
    pair = build_pair(fields, prompt, responses[chosen], responses[1 - chosen])
    if isinstance(pair, Dropped) or field == "better_response_id":
        return pair
    return with_safety(pair, [fields.flag(f"is_response_{number}_safe", HARMLESS) for number in (chosen, 1 - chosen)])


def ranked(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt`, several responses, and their `scores` (higher is better) or `ranks` (lower is better)."""
    field = "responses" if fields.has("responses") else "completions"
    prompt: Completion = prompt_turns(fields) if conversational else fields.text("prompt")
    answers = fields.items(field)
    by_score = fields.has("scores")
    judged = "scores" if by_score else "ranks"
    scores = [value if by_score else -value for value in fields.numbers(judged)]
    if len(scores) != len(answers):
        fix = "give each response one, in the same order"
        what = f"{len(answers)} responses have {len(scores)} {judged}"
        raise fields.error(what, judged, fix)
    completions = [_ranked_answer(answer, f"{field}[{i}]", prompt, fields) for i, answer in enumerate(answers)]
    return build_ranking(fields, prompt, completions, list(scores), {})


def ultrafeedback(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`instruction` and `completions`, objects with a `response` and its `overall_score`."""
    prompt = [_turn("user", fields.text("instruction" if fields.has("instruction") else "prompt"))]
    completions: list[Completion] = []
    scores: list[float] = []
    unscored = 0
    for index, item in enumerate(fields.items("completions")):
        field = f"completions[{index}]"
        if not isinstance(item, dict) or "response" not in item:
            fix = "write objects with 'response' and 'overall_score'"
            raise fields.error("a completion is not an object with a response", field, fix, item)
        if item.get("overall_score") is None:
            unscored += 1
            continue
        scores.append(fields.check_number(item["overall_score"], f"{field}.overall_score"))
        completions.append([_turn("assistant", fields.check_response(item["response"], f"{field}.response"))])
    return build_ranking(fields, prompt, completions, scores, {UNSCORED_RESPONSE: unscored} if unscored else {})


def completion(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt` and `completion`, perhaps with a `label` or a `score`."""
    return build_single(fields, *exchange(fields, conversational, "completion"))


def exchange(fields: Fields, conversational: bool, field: str) -> tuple[Completion, Completion]:
    """`prompt` and one response in `field`."""
    if not conversational:
        return fields.text("prompt"), fields.text(field)
    prompt, answer = prompt_turns(fields), _answer_turns(fields, field)
    _check_dialogue(prompt, answer, field, fields)
    return prompt, answer


def judged(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt`, `completion`, a `label`, and a `judgment` in words, which is read where the label is false."""
    row = completion(fields, conversational)
    if isinstance(row, Dropped) or row.label:
        return row
    return row._replace(judgment=fields.text("judgment"))


def paraphrased(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt` and `completion`, and the prompt in other words as `paraphrase`.

    Beside a prompt of messages, a text is another way to say the user's last turn.
    """
    row = completion(fields, conversational)
    if isinstance(row, Dropped):
        return row
    value = fields.required("paraphrase")
    if isinstance(row.prompt, str) or (isinstance(value, str) and not is_json_list(value)):
        words = fields.text("paraphrase")
        return _with_paraphrase(row, reword(row.prompt, lambda _: words))
    return _with_paraphrase(row, _message_prompt(fields, "paraphrase"))


def contextual(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt` and `completion`, and what stands before the prompt for the teacher only as `context`.

    Before a prompt of messages, a text is a system turn, or the beginning of the prompt's own; or it is turns itself.
    Before a plain text it stands as it is.
    """
    row = completion(fields, conversational)
    if isinstance(row, Dropped):
        return row
    value = fields.required("context")
    if isinstance(row.prompt, str) or (isinstance(value, str) and not is_json_list(value)):
        return row._replace(second_prompt=put_before(row.prompt, fields.text("context")))
    turns = [*fields.messages("context"), *row.prompt]
    check_order(turns, "context", fields)
    return row._replace(second_prompt=turns)


def _with_paraphrase(row: CanonicalRow, second: Completion) -> CanonicalRow | Dropped:
    if second == row.prompt:
        return Dropped(row.row, SAME_PARAPHRASE, str(second))
    return row._replace(second_prompt=second)


def conversation(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`messages` or `conversations`: a demonstration, or with a label or two answers what these make of it."""
    field = "messages" if fields.has("messages") else "conversations"
    messages = _with_system(fields.messages(field), field, fields)
    check_order(messages, field, fields)
    if fields.has("chosen"):
        check_prompt_end(messages, field, fields)
        chosen, rejected = (_answer_turns(fields, side) for side in ("chosen", "rejected"))
        for side, answer in (("chosen", chosen), ("rejected", rejected)):
            _check_dialogue(messages, answer, side, fields)
        return build_pair(fields, messages, chosen, rejected)
    check_answer(messages, field, fields)
    if fields.has("label") or fields.has("kto_tag"):
        cut = last_answer(messages)
        check_prompt_end(messages[:cut], field, fields)
        return build_single(fields, messages[:cut], messages[cut:])
    return build_row(fields, [], [], messages=messages)


def alpaca(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """LLaMA-Factory's `instruction`, `input`, `output` or `chosen` and `rejected`, `system`, `history`.

    Beside `output` perhaps a `paraphrase` of the instruction, which `input` follows as well.
    """
    prompt = _alpaca_prompt(fields, "instruction")
    if fields.has("chosen"):
        chosen, rejected = ([_turn("assistant", fields.text(side))] for side in ("chosen", "rejected"))
        return build_pair(fields, prompt, chosen, rejected)
    row = build_single(fields, prompt, [_turn("assistant", fields.text("output"))])
    return _with_paraphrase(row, _alpaca_prompt(fields, "paraphrase")) if fields.has("paraphrase") else row


def _alpaca_prompt(fields: Fields, field: str) -> list[Message]:
    """The turns before the answer; `field` is what is asked, followed by `input`."""
    question, extra = fields.text(field), fields.optional_text("input")
    prompt = [*_history(fields), _turn("user", f"{question}\n{extra}" if extra else question)]
    return _with_system(prompt, field, fields)


def prompt_only(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`prompt` alone."""
    return build_row(fields, _message_prompt(fields) if conversational else fields.text("prompt"), [])


def plain_text(fields: Fields, conversational: bool) -> CanonicalRow | Dropped:
    """`text` alone."""
    return build_row(fields, "", [], text=fields.text("text"))


def _message_pair(fields: Fields) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt, chosen and rejected as messages, wherever the prompt stands."""
    chosen, rejected = _answer_turns(fields, "chosen"), _answer_turns(fields, "rejected")
    stated = fields.values.get("prompt")
    if chosen[0]["role"] == rejected[0]["role"] == "assistant" and stated is not None:
        prompt = prompt_turns(fields)
    else:
        for field, turns in (("chosen", chosen), ("rejected", rejected)):
            check_order(turns, field, fields)
            check_answer(turns, field, fields)
        same = chosen == rejected
        shared = last_answer(chosen) if same else shared_turns(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not any(message["role"] == "user" for message in prompt):
            fix = "start both with the same turns, or add a 'prompt' column"
            raise fields.error("chosen and rejected do not begin with a prompt that they share", "chosen", fix)
        _check_same_prompt(stated, prompt, fields)
    for field, answer in (("chosen", chosen), ("rejected", rejected)):
        _check_dialogue(prompt, answer, field, fields)
    return prompt, chosen, rejected


def _check_same_prompt(stated: Any, prompt: list[Message], fields: Fields) -> None:
    """Refuse rows whose `prompt` column contradicts the turns that chosen and rejected share."""
    if stated is None:
        return
    if isinstance(stated, list):
        turns = fields.check_messages(stated, "prompt")
        agrees = prompt[: len(turns)] == turns
    else:
        text = fields.text("prompt").strip()
        agrees = any(message["role"] == "user" and message["content"].strip() == text for message in prompt)
    if not agrees:
        fix = "make them agree, or leave the column out with data.columns={prompt: null}"
        raise fields.error("the prompt differs from the turns that chosen and rejected begin with", "prompt", fix)


def prompt_turns(fields: Fields) -> list[Message]:
    """`prompt` as turns, also where it is a text."""
    value = fields.required("prompt")
    if isinstance(value, str) and not is_json_list(value):
        return [_turn("user", fields.text("prompt"))]
    return _message_prompt(fields)


def _message_prompt(fields: Fields, field: str = "prompt") -> list[Message]:
    messages = fields.messages(field)
    check_order(messages, field, fields)
    check_prompt_end(messages, field, fields)
    return messages


def _answer_turns(fields: Fields, field: str) -> list[Message]:
    value = fields.required(field)
    if isinstance(value, dict):
        return fields.check_messages([value], field)
    if isinstance(value, str) and isinstance(fields.values.get("prompt"), list):
        return [_turn("assistant", fields.text(field))]
    return fields.messages(field)


def _ranked_answer(answer: Any, field: str, prompt: Completion, fields: Fields) -> Completion:
    if isinstance(prompt, str):
        return fields.check_response(answer, field)
    if isinstance(answer, str) and isinstance(fields.values["prompt"], list):
        return [_turn("assistant", fields.check_response(answer, field))]
    turns = fields.check_messages([answer] if isinstance(answer, dict) else answer, field)
    _check_dialogue(prompt, turns, field, fields)
    return turns


def _check_dialogue(prompt: list[Message], answer: list[Message], field: str, fields: Fields) -> None:
    if answer[0]["role"] != "assistant":
        fix = "begin it with the assistant's turn; the turns before belong to the prompt"
        raise fields.error("a completion does not begin with a turn of the assistant", f"{field}[0]", fix, answer[0])
    check_order(answer, field, fields, after=prompt[-1]["role"])
    check_answer(answer, field, fields)


def _with_system(messages: list[Message], field: str, fields: Fields) -> list[Message]:
    system = fields.optional_text("system")
    if system is None or messages[0] == _turn("system", system):
        return messages
    if messages[0]["role"] == "system":
        fix = f"keep one of them: the column, or the first turn of '{field}'"
        raise fields.error("two system prompts contradict each other", "system", fix)
    return [_turn("system", system), *messages]


def _history(fields: Fields) -> list[Message]:
    value = fields.values.get("history")
    turns: list[Message] = []
    for index, past in enumerate(fields.items("history") if value not in (None, [], "") else []):
        field = f"history[{index}]"
        if not isinstance(past, list) or len(past) != 2:
            raise fields.error("a past turn is not [question, answer]", field, "write a list of two texts", past)
        question, answer = (fields.check_text(part, field) for part in past)
        turns += [_turn("user", question), _turn("assistant", answer)]
    return turns


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def repeat_prompts(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether pairs of plain texts are laid out with the prompt at the start of both responses.

    One row does not tell: an answer may begin with the words of its question. All rows that are sound must agree.
    """
    names = ("prompt", "chosen", "rejected")
    texts = [[text for text in map(row.get, names) if isinstance(text, str) and text.strip()] for row in rows]
    sound = [row for row in texts if len(row) == len(names)]
    return len(sound) > 1 and all(
        _repeats(chosen, prompt) and _repeats(rejected, prompt) for prompt, chosen, rejected in sound
    )


def _repeats(response: str, prompt: str) -> bool:
    """Whether a response begins with the whole prompt, not just with its letters."""
    rest = response[len(prompt) :]
    return response.startswith(prompt) and not (prompt[-1].isalnum() and rest[:1].isalnum())
