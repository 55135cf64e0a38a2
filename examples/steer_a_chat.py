"""Steer a model while it answers, and see which experts its tokens went to, with and without.

python examples/steer_a_chat.py                                      # the bundled demo model, which only adds up
python examples/steer_a_chat.py allenai/OLMoE-1B-7B-0924-Instruct "Wie spät ist es?"
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import MaxNLocator
from transformers import AutoModelForCausalLM, AutoTokenizer

import lm_eval_moe
from lm_eval_moe.demo_model import demo_model_path

name = sys.argv[1] if len(sys.argv) > 1 else str(demo_model_path())
question = (
    sys.argv[2] if len(sys.argv) > 2 else "Sara ana ndizi nane. Tom ana ndizi tisa. Kuna ndizi ngapi kwa jumla?\nJibu:"
)
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto").eval()

if tokenizer.chat_template:
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
else:
    prompt = tokenizer(question, return_tensors="pt", return_token_type_ids=False)
prompt = prompt.to(model.device)


def answer() -> str:
    """Return the model's answer."""
    tokens = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


with torch.no_grad(), lm_eval_moe.capture(model) as plain:
    before = answer()

# The two experts of each middle layer that the answer used least are promoted: harm is what to expect. A file of
# `steering_configs/` or of your own goes in the same place: `lm_eval_moe.steer(model, "my_experts.yaml")`.
mass = plain.importance[0]  # [L, E]
layer_of = dict(zip(plain.shape.layers, mass, strict=True))
least = {layer: layer_of[layer].argsort()[:2].tolist() for layer in plain.shape.band("middle")}
steering = {
    "version": 1,
    "name": "least used",
    "interventions": [{"layers": "middle", "experts": {"ids": least}, "action": {"soft": 1.0}}],
}
with torch.no_grad(), lm_eval_moe.steer(model, steering), lm_eval_moe.capture(model) as steered:
    after = answer()

print(f"as it is:  {before}")
print(f"steered:   {after}")
print(f"steered at {steered.steered.max()} of {steered.tokens[0]} tokens in each middle layer")

figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
top = max(routing.importance.max() for routing in (plain, steered))
for axes, title, routing in zip(panels, ("As it is", "Steered"), (plain, steered), strict=True):
    image = axes.imshow(routing.importance[0], aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=top)
    axes.set_title(title, loc="left")
    axes.set_xlabel("expert")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
layers = plain.shape.layers
shown = range(0, len(layers), len(layers) // 8 or 1)
panels[0].set_yticks(list(shown), [str(layers[place]) for place in shown])
panels[0].set_ylabel("layer")
figure.colorbar(image, ax=panels, label="expert importance")
figure.savefig("steered_chat.png", dpi=150)
print(f"{Path('steered_chat.png').resolve()}")
