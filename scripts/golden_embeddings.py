#!/usr/bin/env python3
"""Writes the golden vectors of the semantic search demo into tests/data.

They come from an implementation that shares no code with the demo. Embeddings: Hugging Face's BertModel under
PyTorch in fp32 on the CPU. Token ids: Hugging Face's BertTokenizerFast. Needs torch, transformers and numpy; made with torch
1.13.1, transformers 4.40.2, tokenizers 0.19.1:

    apt-get install python3-torch python3-venv
    python3 -m venv --system-site-packages /tmp/golden && /tmp/golden/bin/pip install transformers==4.40.2
    /tmp/golden/bin/python scripts/golden_embeddings.py --model "$(scripts/fetch_model)"

Written files:
  minilm_golden.json / .bin            texts and token ids / embeddings with the real weights, float32 [texts][384]
  minilm_synthetic_golden.json / .bin  the same with the weights of examples/semantic_search/synthetic.hpp and the
                                       toy vocabulary of wordpiece.hpp
  wordpiece_golden.json                texts and token ids for the tokenizer
  wordpiece_vocabulary.tsv             id and token: those tokens of vocab.txt that can occur inside those texts, which
                                       is enough to get the same ids as with all of it, so that the tokenizer is
                                       tested without the model
"""
import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

MAX_TOKENS = 256

SENTENCES = """
Hello
Rain.
Good morning
What is the capital of Australia?
The cat sat on the mat.
A kitten rested on the rug.
Stock markets fell sharply on Tuesday after the announcement.
Water boils at 100 degrees Celsius at sea level.
At high altitude, water boils at a lower temperature.
How do I reset my password?
I forgot my login credentials and cannot sign in.
The mitochondria is the powerhouse of the cell.
Photosynthesis turns carbon dioxide and water into sugar and oxygen.
Ludwig van Beethoven composed nine symphonies.
Which composer wrote the Ninth Symphony?
She sells seashells by the seashore.
El gato duerme en la silla.
Der Hund läuft über die Straße.
Où est la bibliothèque ?
東京は日本の首都です。
Привет, как дела?
E = mc² is the most famous equation in physics.
int main() { return 0; }
The quick brown fox jumps over the lazy dog, 1234567890 times!
Please send the invoice to accounts@example.com before 31/12/2024.
No.
He did not pay the bill.
He paid the bill.
antidisestablishmentarianism
Supercalifragilisticexpialidocious is a very long word that a tokenizer has to cut into many pieces.
The Treaty of Westphalia, signed in 1648, ended the Thirty Years' War in the Holy Roman Empire and is often named as the beginning of the modern system of sovereign states.
To make a roux, melt butter in a pan, stir in the same weight of flour, and cook the paste gently until it smells of biscuits; milk added a little at a time then turns it into a white sauce.
A hash table stores each key in a bucket that is chosen by a hash of the key, so that a look-up inspects, on average, only a constant number of entries, however many the table holds.
The heart of an adult at rest beats between sixty and one hundred times a minute.
Mount Everest rises 8,849 metres above sea level.
Offside is judged at the moment the ball is played, not when it is received.
Contracts need an offer, an acceptance and consideration.
Jupiter has more mass than all the other planets of the solar system put together.
Bake the bread at 230 °C until its crust is deep brown.
The trial was adjourned until Monday because a witness was ill.
A guitar in standard tuning is tuned E, A, D, G, B, E from its lowest string to its highest.
🎉 Party time! 🎉
""".strip().splitlines()

PARAGRAPH = (
    "Rivers carry sediment from mountains to the sea. Where the current slows, sand and silt settle, and over centuries they "
    "build deltas that are fertile, flat and easily flooded. People have farmed such land for thousands of years, because each "
    "flood leaves a new layer of rich soil behind. Dams change this balance: they hold the sediment back, so that the delta is "
    "starved and the sea takes land that the river no longer replaces. Engineers now release water in pulses that imitate floods. "
)
SENTENCES += [
    PARAGRAPH[:250],
    PARAGRAPH,
    PARAGRAPH + "Whether that is enough depends on how fast the sea rises.",
    "Last words first: " + PARAGRAPH * 3,  # above 300 word pieces, cut to 256
    " ".join(f"item {i} costs {i * 37 % 101} euros" for i in range(1, 70)),  # far above 256
    "   ",  # nothing but [CLS] [SEP]
]

TOKENIZER_TEXTS = SENTENCES[:30] + [
    "", " ", "\t\n\r ", "a", "A", ".", "...", "!?", "don't", "rock'n'roll", "state-of-the-art", "U.S.A.", "3.14159", "1,000,000",
    "10^-9 ± 2%", "$5.00 + €7 = £x", "a<b && c>=d || !e", "`code` ~tilde~ |pipe| _under_score_", "C++20, C#, F#", "##hash ##tags #1",
    "https://www.example.org/path/to/page?query=1&lang=en#top", "user.name+tag@mail.example.co.uk",
    "/usr/local/bin/python3.11 --version", "C:\\Windows\\System32\\drivers", "192.168.0.1:8080", "2024-02-29T23:59:59Z",
    "café naïve résumé façade", "CAFÉ NAÏVE RÉSUMÉ", "cafe\u0301 with a combining accent", "Ångström Øresund Łódź Ğ İstanbul ı",
    "straße STRASSE ẞ", "Ελληνικά ΑΒΓ Σίσυφος ΣΊΣΥΦΟΣ", "Київ Ёлка Москва й", "Đặng Thùy Trâm, Việt Nam",
    "ǅ ǆ Ǆ ﬁ ﬂ ﬀ", "Ⅷ Ⓐ ① ½ ™ ©", "Å K Ω", "日本語のテキスト", "中文没有空格", "漢字kanji混ざるtext", "한국어 텍스트", "ไทย ภาษา", "العربية نص", "עברית",
    "हिन्दी पाठ", "বাংলা", "தமிழ்", "😀😃😄", "👩‍👩‍👧‍👦 family", "emoji😀inside", "🇩🇪 flag", "zero\u200bwidth\u200djoiner", "soft\u00adhyphen",
    "non\u00a0breaking\u2003spaces\u3000here", "line\u2028separator\u2029paragraph", "control\u0001chars\u0007here\u0085x", "nul\u0000byte",
    "bad \ufffd replacement", "byte order mark \ufeffhere", "private \ue000 use", "x" * 99, "x" * 100, "x" * 101, "é" * 100, "é" * 101, "word " * 300,
    "supercalifragilisticexpialidocious" * 2, "unaffable unwanted running", "embeddings tokenization transformer", "qwrtzpsdfghjklyxcvbnm",
    "“curly” ‘quotes’ — dash – en… ellipsis", "«guillemets» ‹single›", "、。「」『』【】", "¿Qué? ¡Sí!", "§ 12 ¶ 3 † ‡ • · ‰",
    "[CLS] in the text [SEP] and [MASK] too", "[cls] [sep] lower", "[UNKNOWN] [PAD]ded", "[ SEP ]", "a[SEP]b", "nested [[SEP]]",
    "₂H₂O x² x₃", "½ ¼ ⅓", "ℵ ∀x ∈ ℝ: x² ≥ 0", "→ ⇒ ↔", "a\u0300\u0301\u0302b", "\u0301 alone", "ﾊﾝｶｸ ｶﾀｶﾅ", "ＦＵＬＬ　ＷＩＤＴＨ", "ᾳ ᾼ ΐ ΰ",
    "豈 更 車", "𠀀𠀁 rare", "𝐁𝐨𝐥𝐝 𝔉𝔯𝔞𝔨", "Ǻ Ǽ Ȁ ȳ ʰ", "Ҋ ӂ Ӱ Ԁ", "ა Ა ბ", "Ꭰ ꭰ", "꜀tone", "tab\tseparated\tvalues", "MiXeD CaSe WoRdS",
]

SYNTHETIC_TEXTS = [
    "moon",
    "the moon",
    "rivers carry sand to the sea",
    "the sea carries sand back to the rivers",
    "an astronomer measured the distance of the moon with a mirror and a laser",
    "every word is hashed to one token so that equal words are equal tokens and nothing else is known about them at all",
    " ".join(f"w{i}" for i in range(62)),
    " ".join(f"word{i % 97}" for i in range(400)),  # cut to 256 tokens
]


def embed(model, ids):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    mean = states.mean(dim=0)
    return (mean / mean.norm()).numpy().astype("<f4")


def bert(config_fields, tensors):
    config = BertConfig(**config_fields)
    model = BertModel(config, add_pooling_layer=False)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids") and not name.endswith("token_type_ids")]
    unexpected = [name for name in unexpected if not name.startswith("pooler.") and not name.endswith("position_ids")]
    if missing or unexpected:
        sys.exit(f"the weights do not fit BertModel: missing {missing}, unexpected {unexpected}")
    return model.eval()


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    types = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], dtype=types[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(values.copy())
    return tensors


# The definition in examples/semantic_search/synthetic.hpp, once more.
MASK = (1 << 64) - 1


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def splitmix64(state, count):
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def synthetic_tensor(name, shape, seed=0):
    centre, reach = 0.0, 0.02
    if name.endswith("LayerNorm.weight"):
        centre, reach = 1.0, 0.1
    elif name == "embeddings.word_embeddings.weight":
        reach = 0.1
    elif name.endswith(".weight") and not name.startswith("embeddings."):
        reach = float(np.sqrt(3.0 / shape[1]))
    top = (splitmix64(fnv1a(name) ^ seed, int(np.prod(shape))) >> np.uint64(40)).astype(np.int64)
    uniform = (top - (1 << 23)).astype(np.float64) * 2.0**-23
    return torch.from_numpy((centre + uniform * np.float64(np.float32(reach))).astype(np.float32).reshape(shape))


def hashed_ids(text, size):
    ids = [2] + [5 + fnv1a(word) % (size - 5) for word in text.split()]
    return ids[: MAX_TOKENS - 1] + [3]


def write_texts(path, about, texts, ids):
    lines = ",\n".join(
        '{"text": %s, "ids": %s}' % (json.dumps(text), json.dumps(row, separators=(",", ":"))) for text, row in zip(texts, ids)
    )
    path.write_text('{"about": %s,\n"items": [\n%s\n]}\n' % (json.dumps(about), lines))


def write(out, name, about, texts, ids, rows):
    np.stack(rows).tofile(out / f"{name}.bin")
    write_texts(out / f"{name}.json", about, texts, ids)


def main():
    parser = argparse.ArgumentParser(description="Writes the demo's golden vectors.")
    data = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
    parser.add_argument("--model", type=pathlib.Path, required=True, help="what scripts/fetch_model printed")
    parser.add_argument("--out", type=pathlib.Path, default=data)
    arguments = parser.parse_args()
    out = arguments.out
    torch.manual_seed(0)
    torch.set_num_threads(2)

    tokenizer = BertTokenizerFast(vocab_file=str(arguments.model / "vocab.txt"), do_lower_case=True)

    def tokenize(text):
        return tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]

    texts = list(dict.fromkeys(TOKENIZER_TEXTS))
    write_tokenizer(out, tokenizer, texts, [tokenize(t) for t in texts])

    fields = json.loads((arguments.model / "config.json").read_text())
    weights = arguments.model / "model.safetensors"
    model = bert(fields, read_safetensors(weights))
    ids = [tokenize(t) for t in SENTENCES]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write(out, "minilm_golden", f"model.safetensors sha256 {digest}", SENTENCES, ids, [embed(model, i) for i in ids])

    config = BertConfig(**fields)
    names = {name: value.shape for name, value in BertModel(config, add_pooling_layer=False).state_dict().items()}
    floats = {n: synthetic_tensor(n, tuple(s)) for n, s in names.items() if n.endswith((".weight", ".bias"))}
    model = bert(fields, floats)
    ids = [hashed_ids(t, config.vocab_size) for t in SYNTHETIC_TEXTS]
    rows = [embed(model, i) for i in ids]
    write(out, "minilm_synthetic_golden", "synthetic weights, seed 0", SYNTHETIC_TEXTS, ids, rows)
    print("synthetic similarities:\n", np.round(np.stack(rows) @ np.stack(rows).T, 3), file=sys.stderr)
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size:8d} {file.name}", file=sys.stderr)


def write_tokenizer(out, tokenizer, texts, ids):
    write_texts(out / "wordpiece_golden.json", "vocab.txt of all-MiniLM-L6-v2", texts, ids)
    # A piece can only match where it is a substring of a word, so all other tokens can be left out without any effect.
    backend = tokenizer.backend_tokenizer
    normal = (backend.normalizer.normalize_str(text) for text in texts)
    words = {word for text in normal for word, _ in backend.pre_tokenizer.pre_tokenize_str(text) if len(word) <= 100}
    within = {w[a:b] for w in words for a in range(len(w)) for b in range(a + 1, len(w) + 1)}
    within.update(tokenizer.all_special_tokens)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    kept = [(i, token) for token, i in vocabulary if token.removeprefix("##") in within or token in within]
    (out / "wordpiece_vocabulary.tsv").write_text("".join(f"{i}\t{token}\n" for i, token in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
