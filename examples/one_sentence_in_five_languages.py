"""One sentence in five languages: how differently from English is it routed, layer by layer?

Over many sentences, early and late layers route by language, middle layers by what is said (arXiv 2510.04694). One
sentence is noisy.

    python examples/one_sentence_in_five_languages.py                            # the bundled demo model
    python examples/one_sentence_in_five_languages.py allenai/OLMoE-1B-7B-0924   # any model of transformers
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_eval_moe
from lm_eval_moe.demo_model import demo_model_path

SENTENCES = {
    "English": "Sara has eight bananas. Tom has nine bananas. How many bananas are there in total?\nAnswer:",
    "German": "Sara hat acht Bananen. Tom hat neun Bananen. Wie viele Bananen sind es insgesamt?\nAntwort:",
    "Spanish": "Sara tiene ocho plátanos. Tom tiene nueve plátanos. ¿Cuántos plátanos hay en total?\nRespuesta:",
    "Turkish": "Sara'da sekiz muz var. Tom'da dokuz muz var. Toplam kaç muz var?\nCevap:",
    "Swahili": "Sara ana ndizi nane. Tom ana ndizi tisa. Kuna ndizi ngapi kwa jumla?\nJibu:",
}

name = sys.argv[1] if len(sys.argv) > 1 else str(demo_model_path())
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto").eval()

# A row for each sentence. They could as well share a batch: padding is told by the attention mask, and never counts.
with torch.no_grad(), lm_eval_moe.capture(model) as routing:
    for sentence in SENTENCES.values():
        model(**tokenizer(sentence, return_tensors="pt", return_token_type_ids=False).to(model.device))

english, others = routing[0], routing[1:]
divergence = others.divergence(english)  # [4, L], in nats
for language, curve in zip(list(SENTENCES)[1:], divergence, strict=True):
    print(f"{language:<12}" + "".join(f"{value:7.3f}" for value in curve))

layers = routing.shape.layers
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for language, curve in zip(list(SENTENCES)[1:], divergence, strict=True):
    axes.plot(layers, curve, marker="o", label=language)
axes.set(xlabel="layer", ylabel="divergence from English (nats)", xticks=layers[:: len(layers) // 8 or 1])
axes.set_title("Jensen–Shannon divergence of expert importance, the same sentence", loc="left", fontsize=10)
axes.set_ylim(bottom=0)
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("one_sentence.png", dpi=150)
print(f"{Path('one_sentence.png').resolve()}")
