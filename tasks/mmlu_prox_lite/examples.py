"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import splits_by, texts

_CATEGORIES = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law"),
    *("math", "other", "philosophy", "physics", "psychology"),
)


def _row(index, number, category, sample_id):
    options = " ".join(f"option_{n}" for n in range(10))
    return {
        **texts(f"question {options} cot_content", index, number),
        "question_id": index,
        "answer": "ABCDEFGHIJ"[index % 10],
        "answer_index": index % 10,
        "category": category,
    }


rows = splits_by("category", _CATEGORIES, "test validation", _row)
