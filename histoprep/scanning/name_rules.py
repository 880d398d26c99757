"""Which file names are images and which are masks, and the key that an image and its mask share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from histoprep.errors import UsageError
from histoprep.image_formats import is_image, mask_suffixes
from histoprep.names import pairing_key
from histoprep.scanning.listing import ScanOptions

KEY = "key"
_EXAMPLE = "such as 'img_(?P<key>.+)\\.png$'"


@dataclass(frozen=True, slots=True)
class NameEnd:
    """The end of a file name: what its stem ends in, and its extension; None for any extension.

    A suffix whose last part is the extension of an image format is the end of the whole name.
    """

    stem_end: str
    extension: str | None = None

    @classmethod
    def of(cls, suffix: str) -> NameEnd:
        """Return the end that an option names: `_mask` of the stem, `_mask.png` of the name."""
        before, dot, extension = suffix.rpartition(".")
        if dot and extension.lower() in mask_suffixes():
            return cls(before, extension.lower())
        return cls(suffix)

    def key_in(self, name: str) -> str | None:
        """Return what stands before this end, None for a name that ends otherwise or has nothing
        before it.
        """
        stem, _, extension = name.rpartition(".")
        if self.extension is not None and extension.lower() != self.extension:
            return None
        return _before(stem, self.stem_end)


def _before(stem: str, end: str) -> str | None:
    """Return the stem without its end, in whatever case and Unicode form that is; None when it ends
    otherwise or is nothing else.
    """
    if stem.endswith(end):
        return stem[: len(stem) - len(end)] or None
    key, ending = pairing_key(stem), pairing_key(end)
    if not key.endswith(ending) or len(key) <= len(ending):
        return None
    starts = range(len(stem) - 1, 0, -1)
    found = next((start for start in starts if pairing_key(stem[start:]) == ending), None)
    return key.removesuffix(ending) if found is None else stem[:found]


@dataclass(frozen=True, slots=True)
class NameRules:
    """How names are read: by their ends, or by patterns with a named group `key`; a key in two
    parts has a second group `key2`.

    `is_by_path` is true for patterns with a slash: they are searched in the path below the root,
    and images and masks pair wherever they lie.
    """

    image_end: NameEnd
    mask_end: NameEnd
    image_pattern: re.Pattern[str] | None = None
    mask_pattern: re.Pattern[str] | None = None
    is_by_path: bool = False

    @classmethod
    def of(cls, options: ScanOptions) -> NameRules:
        """Return the rules that options ask for.

        Raises:
            UsageError: A pattern is no regular expression or lacks its group, or a suffix and a
                pattern of one side contradict each other.
        """
        image_pattern = _compiled("--image-pattern", options.image_pattern)
        mask_pattern = _compiled("--mask-pattern", options.mask_pattern)
        if image_pattern and options.image_suffix:
            raise UsageError(
                "--image-pattern and --image-suffix contradict each other",
                seen=f"{options.image_pattern} and {options.image_suffix}",
                hint="choose one of them; a pattern can name the suffix",
            )
        by_path = any("/" in (text or "") for text in (options.image_pattern, options.mask_pattern))
        if by_path and not (image_pattern and mask_pattern):
            raise UsageError(
                "a pattern with a slash is searched in the whole path, so both patterns are needed",
                seen=options.image_pattern or options.mask_pattern,
                expected="--image-pattern and --mask-pattern",
            )
        return cls(
            NameEnd.of(options.image_suffix),
            NameEnd.of(options.mask_suffix),
            image_pattern,
            mask_pattern,
            by_path,
        )

    @property
    def is_plain(self) -> bool:
        """Return whether images are named by their stem and masks by an end of the stem, which can
        be read a column at a time.
        """
        return (
            self.image_pattern is None
            and self.mask_pattern is None
            and self.image_end == NameEnd("")
            and self.mask_end.extension is None
        )

    def image_key(self, name: str) -> str | None:
        """Return the key of an image, spelled as in its name; None when the name is no image's."""
        if self.image_pattern:
            return _key_in(self.image_pattern, name)
        return self.image_end.key_in(name)

    def mask_key(self, name: str, *, alone: bool) -> str | None:
        """Return the key of a mask, spelled as in its name; None when the name is no mask's.

        Args:
            name: Name of the file.
            alone: Whether it lies in a folder of masks, where a suffix of the stem may be absent.
        """
        if self.mask_pattern:
            return _key_in(self.mask_pattern, name)
        key = self.mask_end.key_in(name)
        if key is None and alone and self.mask_end.extension is None:
            return name.rpartition(".")[0]
        return key

    def keys_of(self, name: str) -> tuple[str | None, str | None]:
        """Return the keys of a name as a mask and as an image in a folder of both, at most one; of
        two ends the longer one fits, and a mask's before an image's.
        """
        mask = self.mask_key(name, alone=False)
        if mask is None:
            return None, self.image_key(name)
        by_end = self.mask_pattern is None and self.image_pattern is None
        is_any_image = self.image_pattern is None and self.image_end == NameEnd("")
        is_any_mask = self.mask_pattern is None and self.mask_end == NameEnd("")
        ends_in_nothing = is_any_mask and not is_any_image
        if ends_in_nothing or (
            by_end and len(self.mask_end.stem_end) < len(self.image_end.stem_end)
        ):
            image = self.image_key(name)
            return (mask, None) if image is None else (None, image)
        return mask, None

    def describe(self) -> str:
        """Return in words what a name that is neither does not fit."""
        image = self.image_pattern.pattern if self.image_pattern else _shown(self.image_end)
        mask = self.mask_pattern.pattern if self.mask_pattern else _shown(self.mask_end)
        return f"named neither like an image ({image}) nor like a mask ({mask}); not read"


def _shown(end: NameEnd) -> str:
    return f"*{end.stem_end}.{end.extension or '*'}"


def _compiled(option: str, text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(
            f"{option} is no regular expression: {error}", seen=text, expected=_EXAMPLE
        ) from error
    if KEY not in pattern.groupindex:
        raise UsageError(
            f"{option} needs a group named {KEY}: what an image and its mask have in common",
            seen=text,
            expected=_EXAMPLE,
        )
    return pattern


def _key_in(pattern: re.Pattern[str], name: str) -> str | None:
    """Return what the groups of a pattern hold, those of further keys after the first, with a slash
    between them as between folders: `A_0` in the two parts `A` and `0` is the key of `A/0`.
    """
    match = pattern.search(name)
    if match is None or match[KEY] is None:
        return None
    parts = [match[group] or "" for group in pattern.groupindex if group.startswith(KEY)]
    *before, last = parts
    return "".join(f"{part}/" if part and part[-1] != "/" else part for part in before) + last


def is_data(name: str) -> bool:
    """Return whether a name is that of an image or mask file that is not hidden."""
    return is_image(name) and not name.startswith(".") and name.rpartition(".")[0] != ""
