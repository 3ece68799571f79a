"""
What the words of a search find: typos, characters in two forms, scripts without spaces, names that begin with them.
"""

from __future__ import annotations

import unicodedata
import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.registry.v1 import cards_pb2, evaluations_pb2, models_pb2, namespaces_pb2
from modelyard.registry.v1 import models_pb2 as pb
from services.ledger.store.database import DatabaseSettings, open_database
from services.registry.store.search.vocabulary import Vocabulary
from services.registry.tests.calls import add_version, create, record, result, sql
from services.registry.tests.server import Registry

Model = models_pb2.Model


class Space:
    """
    A namespace of its own.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry = registry
        self.name = name

    async def create(self, model: str, **fields: Any) -> pb.Model:
        """
        Create a model.
        """
        request = pb.CreateModelRequest(parent=self.name, model_id=model, model=Model(**fields))
        return await self.registry.models.CreateModel(request)

    async def purge(self, model: str) -> None:
        """
        Delete a model for good.
        """
        name = f"{self.name}/models/{model}"
        await self.registry.models.DeleteModel(pb.DeleteModelRequest(name=name))
        await self.registry.models.PurgeModel(pb.PurgeModelRequest(name=name))

    async def found(self, query: str = "", size: int = 0, **more: Any) -> list[str]:
        """
        The ids of the models that a search finds, all pages of it.
        """
        names, token = [], ""
        while True:
            request = pb.SearchModelsRequest(parent=self.name, query=query, page_size=size, page_token=token, **more)
            page = await self.registry.models.SearchModels(request)
            names += [model.name.rpartition("/")[2] for model in page.models]
            token = page.next_page_token
            if not token:
                return names


async def new_space(registry: Registry) -> Space:
    """
    An empty namespace.
    """
    name = f"s{uuid.uuid4().hex[:12]}"
    await registry.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace_id=name))
    return Space(registry, f"namespaces/{name}")


@pytest.fixture
async def space(shared: Registry) -> Space:
    """
    A namespace of one's own.
    """
    return await new_space(shared)


async def test_typos_whatever_others_write(shared: Registry, space: Space) -> None:
    """
    A typo is mended although a model of another namespace has it, or one that was purged.
    """
    await space.create("convnext-base")
    assert await space.found("convnxt") == ["convnext-base"]
    other = await new_space(shared)
    await other.create("m", description="convnxt")
    assert await space.found("convnxt") == ["convnext-base"]
    await space.create("wrong", description="convnxt")
    assert await space.found("convnxt") == ["wrong"]
    await space.purge("wrong")
    assert await space.found("convnxt") == ["convnext-base"]


async def test_typos_when_the_search_finds_nothing(space: Space) -> None:
    """
    A word that is somewhere is mended, too, when no model has all of the words.
    """
    await space.create("convnext-base")
    await space.create("other", description="convnxt")
    assert await space.found("convnxt base") == ["convnext-base"]
    assert await space.found("convnxt base", order_by="name") == ["convnext-base"]


async def test_a_filter_is_no_typo(space: Space) -> None:
    """
    A word that is there stands for itself, even if the filter leaves nothing of what it finds.
    """
    await space.create("resnet", owner="ann")
    await space.create("regnet", owner="bob")
    assert await space.found("resnet", filter="owner = bob") == []
    assert await space.found("resnwt", filter="owner = bob") == ["regnet"]


@pytest.mark.parametrize("order", ["", "name desc"])
async def test_pages_of_typos(space: Space, order: str) -> None:
    """
    The results of a corrected search are paged, each model once, even when a model with the typo is created in between.
    """
    for number in range(5):
        await space.create(f"m{number}", description="efficientnet")
    request = pb.SearchModelsRequest(parent=space.name, query="efficentnet", order_by=order, page_size=2)
    first = await space.registry.models.SearchModels(request)
    await space.create("z-late", description="efficentnet")
    request.page_token = first.next_page_token
    second = await space.registry.models.SearchModels(request)
    request.page_token = second.next_page_token
    third = await space.registry.models.SearchModels(request)
    names = [each.name.rpartition("/")[2] for page in (first, second, third) for each in page.models]
    assert names == [f"m{number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    "typed",
    [
        "efficentnet",  # one letter too few
        "effficientnet",  # one too many
        "efficuentnet",  # another one
        "efficeintnet",  # two swapped
        "efficntnet",  # two too few
        "afficiantnet",  # two others
        "effizientnett",
    ],
)
async def test_two_letters(space: Space, typed: str) -> None:
    """
    Up to two letters of a longer word may be wrong, wherever they are.
    """
    await space.create("m", description="EfficientNet")
    await space.create("n", description="sufficient")
    assert await space.found(typed) == ["m"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("resnt", ["n", "m"]),
        ("rensnet", ["n", "m"]),
        ("lama", ["o"]),
        ("resnt50", ["m"]),
        ("rexnxt", []),
    ],
)
async def test_digits_at_the_end_of_a_name(space: Space, typed: str, expected: list[str]) -> None:
    """
    A mistyped word without digits finds names that end in digits, such as a size or a release; one with digits finds
    those that are spelt like it as a whole.
    """
    await space.create("m", description="resnet50")
    await space.create("n", description="resnet18")
    await space.create("o", description="llama2")
    assert await space.found(typed) == expected


async def test_words_of_machines_are_not_learnt(space: Space) -> None:
    """
    Digests, ids and timestamps do not fill the vocabulary, and are found all the same, by their beginnings, too.
    """
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    text = f"sha256 {digest} run 6fa459ea-ee8a-3ca4-894e-db77e160355e at 20240131T120000Z of resnet50 224x224 in22k"
    await space.create("m", description=text)
    learnt = await sql(
        space.registry,
        "SELECT array_agg(word ORDER BY word) FROM vocabulary WHERE namespace_id = $1",
        space.name.removeprefix("namespaces/"),
    )
    assert set(learnt) == {"m", "sha256", "run", "at", "of", "resnet50", "224x224", "in22k", "ee8a", "3ca4", "894e"}
    for query in (digest, digest[:10], "6fa459ea", "6fa459", "20240131T120000Z"):
        assert await space.found(query) == ["m"], query


async def test_words_go_when_no_model_has_them(registry: Registry) -> None:
    """
    A word is deleted when no model has had it for a minute; one that a model has again in the meantime stays.
    """
    space = await new_space(registry)
    for model in ("gone", "kept"):
        await space.create(model, description=f"word{'x' if model == 'gone' else 'y'} together")
    await space.purge("gone")

    async def known() -> set[str]:
        words = await sql(
            registry,
            "SELECT array_agg(word) FROM vocabulary WHERE namespace_id = $1",
            space.name.removeprefix("namespaces/"),
        )
        return set(words)

    async with open_database(DatabaseSettings(url=registry.database)) as database:
        vocabulary = Vocabulary(database)
        await vocabulary.forget()
        assert await known() == {"gone", "wordx", "kept", "wordy", "together"}
        later = "UPDATE vocabulary SET doubt_time = doubt_time - interval '2 minutes' RETURNING 1"
        await sql(registry, later)
        await space.create("again", description="wordx")
        await vocabulary.forget()
        assert await known() == {"wordx", "kept", "wordy", "together", "again"}
        await vocabulary.forget()
        await sql(registry, later)
        await vocabulary.forget()
        assert await known() == {"wordx", "kept", "wordy", "together", "again"}


NFC = "Été à l'hôtel, Ångström"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(("stored", "asked"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
async def test_composed_and_decomposed(space: Space, stored: str, asked: str) -> None:
    """
    The composed and the decomposed form of a text are the same for words and filters; it is given back as it was sent.
    """
    owner_ = stored.split(",")[0]
    model = await space.create("m", display_name=stored, description=stored, owner=owner_, labels={"where": owner_})
    assert model.owner == owner_
    await space.create("other", owner="Ete", labels={"where": "hotel"})
    for word in ("été", "ÉTÉ", "hôtel", "ångström", "ångs"):
        typed = unicodedata.normalize("NFD", word) if asked == NFD else word
        assert await space.found(typed) == ["m"], word
    for filter_ in (
        f'owner = "{asked.split(",")[0]}"',
        f'owner:"{asked.split(" ")[0]}"',
        f'labels.where = "{asked.split(",")[0]}"',
        f'labels.where:"{asked.split(",")[0]}"',
        f'labels.where >= "{asked.split(",")[0]}"',
        f'display_name = "{asked}"',
    ):
        assert await space.found(filter=filter_) == ["m"], filter_


TEXTS = {
    "zh": "中文图像识别模型",
    "ja": "今月の売上予測モデル",
    "th": "แบบจำลองรู้จำภาพใบหน้า",
    "apart": "识字与区别",
    "pairs": "图像之像识",
    "mixed": "ResNet模型v2用于检测",
}


@pytest.mark.parametrize("where", ["display_name", "description", "labels", "card"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("识别", {"zh"}),
        ("图像识", {"zh"}),
        ("中文", {"zh"}),
        ("像别", set()),
        ("识别图像", set()),
        ("模型", {"zh", "mixed"}),
        ("别", {"zh", "apart"}),
        ("型", {"zh", "mixed"}),
        ("売上", {"ja"}),
        ("予測", {"ja"}),
        ("モデル", {"ja"}),
        ("ﾓﾃﾞﾙ", {"ja"}),
        ("今月の売上予測モデル", {"ja"}),
        ("จำลอง", {"th"}),
        ("ภาพ", {"th"}),
        ("ใบหน้า", {"th"}),
        ("resnet 检测", {"mixed"}),
        ("resnet检测", {"mixed"}),
        ("ＲｅｓＮｅｔ", {"mixed"}),
        ("图像、识别", {"zh"}),
    ],
)
async def test_scripts_without_spaces(new_registry: Registry, where: str, query: str, expected: set[str]) -> None:
    """
    Words in the middle of Chinese, Japanese and Thai text are found; characters that only stand apart are not.
    """
    space = await scripts(new_registry, where)
    assert set(await space.found(query)) == expected


_stocked: dict[tuple[str, str], Space] = {}


async def scripts(registry: Registry, where: str) -> Space:
    """
    A namespace whose models have the texts in one of their fields; made once.
    """
    key = (registry.database, where)
    if key not in _stocked:
        space = await new_space(registry)
        for model, text in TEXTS.items():
            fields = {} if where == "card" else {where: {"what": text} if where == "labels" else text}
            await space.create(model, **fields)
            if where == "card":
                name = f"{space.name}/models/{model}/card"
                await write_card_of(registry, name, text)
        _stocked[key] = space
    return _stocked[key]


async def write_card_of(registry: Registry, name: str, markdown: str) -> None:
    """
    Write a card.
    """
    card = cards_pb2.Card(name=name, markdown=markdown)
    await registry.cards.UpdateCard(cards_pb2.UpdateCardRequest(card=card, update_mask=FieldMask(paths=["markdown"])))


async def test_large_texts_without_spaces(space: Space) -> None:
    """
    The longest description, labels and card of rare characters can be written and found.
    """
    rare = "".join(chr(0x20000 + number % 40000) for number in range(16384))
    labels = {f"k{number}": rare[number * 256 : number * 256 + 256] for number in range(64)}
    await space.create("m", display_name=rare[-256:], description=rare[::-1], labels=labels)
    markdown = "".join(chr(0x20000 + number * 7 % 42000) for number in range(250_000))
    await write_card_of(space.registry, f"{space.name}/models/m/card", markdown)
    assert await space.found(markdown[30:32]) == ["m"]
    assert await space.found(rare[1000:1002]) == ["m"]


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_names_that_begin_with_the_query(space: Space, size: int) -> None:
    """
    After the model of that name come those whose names begin with the query, by name, in any case; then the others.
    """
    for model in ("resnet50.b", "wide_resnet50_2", "resnet50.a1_in1k", "ResNet50-x", "resnet50", "wide_resnet50_3"):
        await space.create(model)
    await space.create("other", display_name="resnet50 again")
    expected = ["ResNet50-x", "resnet50.a1_in1k", "resnet50.b", "other", "wide_resnet50_3", "wide_resnet50_2"]
    assert await space.found("resnet50", size) == ["resnet50", *expected]
    # By ASCII's order of what is in lower case: "-" comes before "." and that before "_".
    folded = await space.found("RESNET50", size)
    assert folded == ["resnet50", *expected]


async def test_the_beginning_and_deletions(space: Space) -> None:
    """
    The next page begins after the last name of the previous page, even if that model has been deleted.
    """
    for number in range(4):
        await space.create(f"net{number}")
    request = pb.SearchModelsRequest(parent=space.name, query="net", page_size=2)
    first = await space.registry.models.SearchModels(request)
    await space.purge("net1")
    request.page_token = first.next_page_token
    second = await space.registry.models.SearchModels(request)
    names = [each.name.rpartition("/")[2] for page in (first, second) for each in page.models]
    assert names == ["net0", "net1", "net2", "net3"]


async def test_what_is_not_known_does_not_compare(registry: Registry) -> None:
    """
    An unknown number of parameters is neither less nor more nor other than any number, in searches and leaderboards.
    """
    for model, count in (("small", 5), ("unknown", 0)):
        await create(registry, model, Model(parameter_count=count))
        await add_version(registry, model)
        await record(registry, result(model, 1, "d", "m", 1.0))
    space = Space(registry, "namespaces/default")
    for filter_ in ("parameters < 100", "parameters <= 5", "parameters >= 0", "parameters != 7", "parameters > -1"):
        assert await space.found(filter=filter_) == ["small"], filter_
        board = evaluations_pb2.QueryLeaderboardRequest(parent=space.name, dataset="d", metric="m", filter=filter_)
        entries = (await registry.evaluations.QueryLeaderboard(board)).entries
        assert [each.model.rpartition("/")[2] for each in entries] == ["small"], filter_
    assert await space.found(filter="parameters = 0") == []
    assert await space.found(filter="NOT parameters < 100") == ["unknown"]
    assert await space.found(filter="NOT parameters:*") == ["unknown"]


async def test_texts_that_are_not_given_do_not_compare(space: Space) -> None:
    """
    A license, task or owner that is not set is neither unequal to nor less than any value; `= ""` matches exactly
    those.
    """
    await space.create("mit", license="MIT")
    await space.create("none")
    assert await space.found(filter="license != Apache-2.0") == ["mit"]
    assert await space.found(filter="license < Z") == ["mit"]
    assert await space.found(filter='license != ""') == ["mit"]
    assert await space.found(filter='license = ""') == ["none"]
    assert await space.found(filter="NOT license = Apache-2.0") == ["none", "mit"]
