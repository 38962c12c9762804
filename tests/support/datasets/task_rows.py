"""A row for each task adapter, and the adapters on rows of a source that is called ``rows``."""

from scoring.sources.source import Row
from scoring.sources.task_adapters import adapt_row
from suites.definitions.suite import TaskDefinition

LABELLED = {"text": ["bank", "mall", "zoo"], "label": ["1", "2", "3"]}

ROWS = {
    "hellaswag": {
        "ind": 24,
        "activity_label": "Roof [x] removal",
        "ctx_a": "A man is on a roof. [header] Stop [title] Go",
        "ctx_b": "he Then",
        "endings": ["rips  tiles.", "sings [step] now."],
        "label": "1",
    },
    "piqa": {"goal": "dresser", "sol1": "use a pin ", "sol2": "use wood", "label": 1},
    "winogrande": {"sentence": "Sarah beat Maria so _ won it.", "option1": "Sarah", "option2": "Maria", "answer": "1"},
    "arc_easy": {"id": "M_1", "question": "Where?", "choices": LABELLED, "answerKey": "2"},
    "arc_challenge": {"id": "M_1", "question": "Where?", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "C"},
    "openbookqa": {"id": "8", "question_stem": "Fish are", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "A"},
    "commonsense_qa": {"id": "c", "question": "Where? ", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "B"},
    "social_i_qa": {
        "context": "Al sat.",
        "question": "Why?",
        "answerA": "tired",
        "answerB": "sad",
        "answerC": "bored",
        "label": "3",
    },
    "sciq": {
        "question": "Who?",
        "distractor1": "a",
        "distractor2": "b",
        "distractor3": "c",
        "correct_answer": "d",
        "support": " Known.",
    },
    "qasc": {"id": "q", "question": "What?", "choices": LABELLED, "answerKey": "3", "fact1": "secret", "fact2": "secret"},
    "copa": {"idx": 5, "premise": "It rained.", "question": "effect", "choice1": "I got wet.", "choice2": "Sun.", "label": 0},
    "mmlu": {"question": "Degree?", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1},
    "multiple_choice": {"context": "def f():\n", "choices": ["  return 1", "pass"], "gold": 0, "subject": "code"},
}


def adapt(adapter, row, *, form="ours", delimiter=" ", number=0):
    definition = TaskDefinition(adapter=adapter, format=form, delimiter=delimiter)
    return adapt_row(definition, Row(row, "rows", number, row.keys()))
