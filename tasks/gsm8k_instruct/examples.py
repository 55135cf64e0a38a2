"""Invented rows in the columns of this benchmark's data."""

_LANGUAGES = ["English", "Swahili", "Chinese", "Bengali", "German", "Spanish", "French", "Japanese", "Russian", "Thai"]


def rows(task, number):
    """Return every problem in all languages, as the data mix them."""
    return {
        f"gsm8k_instruct/{task.file}.jsonl": [
            {
                "prompt": "Below is an instruction that describes a task. Write a response that appropriately "
                f"completes the request in {language}. Please answer in {language}.\n\n"
                f"### Instruction:\n<{language} problem {index}>\n\n### Response:",
                "chosen": f"<{language} steps> {index + 1}",
            }
            for index in range(number)
            for language in _LANGUAGES
        ]
    }
