"""data.py - documents to train on and to ask, in the formats of TASKS.md.

Everything is a pure function of (corpus, seed, number of the step): a run that is resumed sees what it would have seen.
A token's weight says how much its prediction counts: what no one can know (names, numbers where they are set) counts
nothing, answers count most.
"""
import numpy as np
import torch

BEGIN = 256
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
TASKS = ["passkey", "multikey", "variables", "copy", "frequent"]

WEIGHT_UNIT = 0.25                          # weights travel as bytes
WEIGHT_TEXT, WEIGHT_FILLER, WEIGHT_ANSWER = 4, 2, 16


def names(rng, n):
    """n distinct names, each equally likely."""
    shape = (len(CONSONANTS), len(VOWELS), len(CONSONANTS), len(VOWELS))
    codes = rng.choice(np.prod(shape), n, replace=False)
    a, b, c, d = np.unravel_index(codes, shape)
    return [CONSONANTS[a[i]] + VOWELS[b[i]] + CONSONANTS[c[i]] + VOWELS[d[i]] for i in range(n)]


def digits(rng, n):
    return "".join(map(str, rng.integers(0, 10, n)))


# Each task: -> (items [(text, depth or None)], questions [(question, answer, closing mark)]).

def make_passkey(rng, context, depth):
    number = digits(rng, 5)
    return [(f"[pass key={number}]", depth)], [("[pass key=", number, "]")]


def make_multikey(rng, context, depth, n=0):
    n = n or max(4, context // 256)
    pairs = [(name, digits(rng, 4)) for name in names(rng, n)]
    items = [(f"[{name}={number}]", depth if i == 0 else None) for i, (name, number) in enumerate(pairs)]
    return items, [(f"[{name}=", number, "]") for name, number in pairs]


def make_variables(rng, context, depth, n=2):
    words, items, questions = names(rng, 3 * n), [], []
    for a, b, c in zip(words[0::3], words[1::3], words[2::3]):
        number = digits(rng, 4)
        items += [(f"[{a}={b}]", None), (f"[{b}={c}]", None), (f"[{c}={number}]", None)]
        questions.append((f"<{a}=", f"{b}={c}={number}", ">"))
    return items, questions


def make_copy(rng, context, depth):
    letters = "".join(chr(97 + i) for i in rng.integers(0, 26, 24))
    return [("{copy=" + letters + "}", depth)], [("{copy=", letters, "}")]


def make_frequent(rng, context, depth):
    most = max(4, context // 512)
    words = names(rng, 5)
    items = [(f"({word})", None) for i, word in enumerate(words) for _ in range(most if i == 0 else most // 2)]
    return items, [("(most=", words[0], ")")]


MAKERS = {"passkey": make_passkey, "multikey": make_multikey, "variables": make_variables, "copy": make_copy,
          "frequent": make_frequent}


def plain(text):
    """Filler: no marks, one space between words."""
    table = np.arange(256, dtype=np.uint8)
    table[:33] = table[127:] = 32
    for mark in b"[]{}<>()=":
        table[mark] = 32
    text = table[text]
    space = text == 32
    return text[~(space & np.concatenate([[False], space[:-1]]))]


class Texts:
    """Running text and filler, drawn by the weights of the sources."""

    def __init__(self, sources):
        self.texts = [text for _, _, text in sources]
        self.fillers = [plain(text) for text in self.texts]
        weights = np.array([weight for _, weight, _ in sources], float)
        self.weights = weights / weights.sum()

    def draw(self, rng, n, filler):
        source = rng.choice(len(self.weights), p=self.weights)
        text = (self.fillers if filler else self.texts)[source]
        at = rng.integers(0, len(text) - n)
        return text[at:at + n]


def weave(filler, items, rng):
    """The body: filler [n] with its items. -> list of (bytes, weight)."""
    filler = filler.tobytes()
    places = []
    for text, depth in items:
        at = int((rng.random() if depth is None else depth) * len(filler))
        space = filler.find(b" ", at)
        places.append((len(filler) if space < 0 else space + 1, text))
    parts, at = [], 0
    for place, text in sorted(places, key=lambda one: one[0]):    # stable
        parts.append((filler[at:place], WEIGHT_FILLER))
        parts.append((text.encode() + b" ", 0))
        at = place
    parts.append((filler[at:], WEIGHT_FILLER))
    return parts


def document(parts, length):
    """-> (tokens [length], weights [length] of predicting each)"""
    tokens, weights = np.full(length, 32, np.int16), np.zeros(length, np.uint8)
    tokens[0], at = BEGIN, 1
    for text, weight in parts:
        n = min(len(text), length - at)
        tokens[at:at + n] = np.frombuffer(text[:n], np.uint8)
        weights[at:at + n] = weight
        at += n
    return tokens, weights


def text_document(rng, texts, length):
    return document([(texts.draw(rng, length - 1, False).tobytes(), WEIGHT_TEXT)], length)


def ask(questions):
    parts = []
    for question, answer, close in questions:
        parts.append((f"\n{question}".encode(), 0))
        parts.append(((answer + close).encode(), WEIGHT_ANSWER))
    return parts


def cost(items, questions):
    return sum(len(text) + 1 for text, _ in items) + sum(len(q) + len(a) + len(c) + 1 for q, a, c in questions)


def dense_document(rng, texts, length):
    """Many items of all tasks, and at the end every question that they allow, once, in any order."""
    room = int(rng.uniform(0.3, 0.7) * length)
    items, questions = [], []
    makers = [lambda task=task: MAKERS[task](rng, length, None) for task in ("passkey", "copy", "frequent")]
    makers.append(lambda: make_variables(rng, length, None, int(rng.integers(2, 3 + length // 1024))))
    makers.append(lambda: make_multikey(rng, length, None, int(rng.integers(max(3, length // 256), 4 + length // 64))))
    for i in rng.permutation(len(makers)):
        more, asked = makers[i]()
        if cost(items + more, questions + asked) <= room:
            items, questions = items + more, questions + asked
    questions = [questions[i] for i in rng.permutation(len(questions))]
    filler = texts.draw(rng, length - 1 - cost(items, questions), True)
    return document(weave(filler, items, rng) + ask(questions), length)


def task_document(rng, texts, length, task, depth=None):
    """One question, as the evaluation asks it; ends with the answer. -> (tokens, weights, answer's length)"""
    depth = rng.random() if depth is None else depth
    items, questions = MAKERS[task](rng, length, depth)
    question, answer, _ = questions[0]
    filler = texts.draw(rng, length - 1 - cost(items, [(question, answer, "")]), True)
    tokens, weights = document(weave(filler, items, rng) + ask([(question, answer, "")]), length)
    return tokens, weights, len(answer)


def batch(texts, seed, step, n_documents, length):
    """-> (tokens, weights) [n_documents][length]: 35% text, 50% dense documents, 15% single questions."""
    rng = np.random.default_rng([seed, step])
    made = []
    for _ in range(n_documents):
        kind = rng.random()
        if kind < 0.35:
            made.append(text_document(rng, texts, length))
        elif kind < 0.85:
            made.append(dense_document(rng, texts, length))
        else:
            made.append(task_document(rng, texts, length, TASKS[rng.integers(len(TASKS))])[:2])
    return np.stack([tokens for tokens, _ in made]), np.stack([weights for _, weights in made])


class Steps(torch.utils.data.Dataset):
    """Batches by number, for a DataLoader's workers. shape(step) -> (documents, tokens of each)"""

    def __init__(self, texts, seed, first, shape):
        self.texts, self.seed, self.first, self.shape = texts, seed, first, shape

    def __len__(self):
        return 1 << 30

    def __getitem__(self, i):
        step = self.first + i
        tokens, weights = batch(self.texts, self.seed, step, *self.shape(step))
        return torch.from_numpy(tokens), torch.from_numpy(weights)


def stream(texts, seed, first, shape, workers):
    """Endless batches (tokens int16, weights uint8), from step `first` on, in order."""
    steps = Steps(texts, seed, first, shape)
    sampler = range(1 << 24)
    return iter(torch.utils.data.DataLoader(steps, batch_size=None, sampler=sampler, num_workers=workers,
                                            prefetch_factor=8 if workers else None,
                                            pin_memory=torch.cuda.is_available()))
