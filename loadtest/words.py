"""Words for synthetic text: from a tokenizer where one is given, else common English ones."""

from pathlib import Path

from tokenizers import Tokenizer

from loadtest.errors import LoadtestError

_MAX_WORDS = 4096

# Single tokens, with a space before them, in most vocabularies of 30,000 entries and more.
_COMMON_WORDS = (
    "about after again all also always and another any are area around ask back based be "
    "because been before being best better between big both business but by call can case "
    "change child city come company could country course day did different do down during each "
    "early end even every example fact family far feel few field find first for form found free "
    "from full game general get give go good government great group had hand has have he head "
    "help her here high him his history home house how idea if important in information "
    "interest into is issue it job just keep kind know large last law learn leave left less let "
    "level life light like line list little local long look made main make man many market may "
    "me means member might mind model money month more most move much music must my name "
    "national need never new next night no not now number of off office old on one only open or "
    "order other our out over own page part party people person place plan play point power "
    "present problem process program provide public question quite rate read real reason result "
    "right road room same say school second see seem service set several she should show side "
    "since small so social some something space special start state still story street strong "
    "study such system take team tell term than that the their them then there these they thing "
    "think this those three through time to today together too top total town true two type "
    "under until up us use value very view want war was water way we week well were what when "
    "where which while white who why will with within without woman word work world would write "
    "year you young your "
)
COMMON_WORDS = tuple(_COMMON_WORDS.split())


def words_of(tokenizer_path: Path | None) -> tuple[str, ...]:
    """Words that are one token each behind a space. Raises LoadtestError without a tokenizer.

    tokenizer_path: a tokenizer.json or a directory with one; None: the common words, whose lengths
    in tokens are then approximate.
    """
    if tokenizer_path is None:
        return COMMON_WORDS
    file = tokenizer_path / "tokenizer.json" if tokenizer_path.is_dir() else tokenizer_path
    if not file.is_file():
        raise LoadtestError(f"{file} does not exist")
    tokenizer = Tokenizer.from_file(str(file))
    found = [word for word in _candidates(tokenizer) if _is_one_token(tokenizer, word)]
    if len(found) < 2:
        raise LoadtestError(f"{file} has no words of one token")
    return tuple(found[:_MAX_WORDS])


def _candidates(tokenizer: Tokenizer) -> list[str]:
    """Plain ASCII words, as they stand behind a space, by token id."""
    decoded = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
    words = (text.strip() for text in decoded)
    return list(dict.fromkeys(word for word in words if word.isascii() and word.isalpha()))


def _is_one_token(tokenizer: Tokenizer, word: str) -> bool:
    """Also behind another word, so that lengths add up."""
    twice = tokenizer.encode(f" {word} {word}", add_special_tokens=False).ids
    return len(twice) == 2 and twice[0] == twice[1]
