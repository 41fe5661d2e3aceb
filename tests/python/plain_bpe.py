"""A tokenizer written from the rules alone, slow and short: the tests' second opinion on prompts and texts."""
import json
import re


class PlainBpe:
    def __init__(self, path):
        data = json.loads(path.read_text())
        self.vocab = data["model"]["vocab"]
        self.rank = {tuple(pair): i for i, pair in enumerate(data["model"]["merges"])}
        self.special = {t["content"]: t["id"] for t in data["added_tokens"]}
        self.text_of = {i: t for t, i in self.vocab.items()} | {i: t for t, i in self.special.items()}
        self.bos = self.special["<bos>"]

    def encode(self, text, parse_special=False):
        """Special tokens cut the text into pieces; a piece is one word, merged pair by pair in order of rank."""
        if not parse_special:
            return self._encode_piece(text)
        longest_first = sorted(self.special, key=len, reverse=True)
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text):
            ids += [self.special[part]] if part in self.special else self._encode_piece(part)
        return ids

    def _encode_piece(self, text):
        symbols = []
        for character in text.replace(" ", "\u2581"):
            if character in self.vocab:
                symbols.append(character)
            else:
                symbols += [f"<0x{byte:02X}>" for byte in character.encode()]
        while len(symbols) > 1:
            best = min(range(len(symbols) - 1), key=lambda i: self.rank.get((symbols[i], symbols[i + 1]), 1 << 30))
            if (symbols[best], symbols[best + 1]) not in self.rank:
                break
            symbols[best:best + 2] = [symbols[best] + symbols[best + 1]]
        return [self.vocab[s] for s in symbols]

    def decode(self, ids, skip_special=False):
        out = b""
        for i in ids:
            text = self.text_of[i]
            if text in self.special:
                out += b"" if skip_special else text.encode()
            elif re.fullmatch("<0x[0-9A-F]{2}>", text):
                out += bytes([int(text[3:5], 16)])
            else:
                out += text.replace("\u2581", " ").encode()
        return out.decode(errors="replace")
