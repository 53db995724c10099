"""What can be asked about a scene: each topic is a question, and questions that may follow it."""

from collections.abc import Callable, Iterator

from recipes.demo_model.asker import Asker
from recipes.demo_model.exchange import Exchange, Topic
from recipes.demo_model.naming import described_places, name_of, place_of
from recipes.demo_model.nouns import (
    BACKGROUND,
    BAR,
    SHAPE,
    TEXTS,
    THING,
    Item,
    Noun,
    bar_noun,
    counts,
)
from recipes.demo_model.palette import COLOURS, Colour
from recipes.demo_model.shapes import SHAPES
from recipes.demo_model.things import things
from recipes.demo_model.wording import EXTREMES, at

_PLACES = {
    "row": (("left", "right"), ("left", "middle", "right")),
    "column": (("top", "bottom"), ("top", "middle", "bottom")),
    "corners": ((), (), ("top left", "top right", "bottom left", "bottom right")),
}


class Topics(Asker):
    """Finds all topics of one scene."""

    def all(self) -> list[Topic]:
        """In no particular order."""
        finders: tuple[Callable[[], Iterator[Topic]], ...] = (
            self._whole,
            self._places,
            self._counts,
            self._exists,
            self._colours,
            self._texts,
            self._chart,
        )
        return [topic for find in finders for topic in find()]

    # what the picture shows

    def _whole(self) -> Iterator[Topic]:
        name, described = name_of(self._scene, self._language), self._description()
        skill = "describe" if self._scene.texts else "name"
        follow_ups = self._about_it() if len(self._items) == 1 else self._about_them()
        if self._scene.background.colour and not self._scene.bars:
            colour = self._scene.background.colour.named(self._language)
            follow_ups.append(self._then("colour", colour, BACKGROUND))
        yield Topic(self._ask("name", name, skill), follow_ups)
        if self._rng.random() < 0.6:
            yield Topic(self._ask("describe", described, "describe"), follow_ups)
        if len(self._items) == 1 and self._scene.shapes:
            shape = self._items[0].noun.plain()
            yield Topic(self._ask("shape", shape.one(self._language), "name"), self._about_it())

    def _about_it(self) -> list[Exchange]:
        (item,) = self._items
        found = [self._is_it(item)]
        if place := place_of(item.box):
            where = at(place, self._language)
            found += [self._then("then where", self._is_at(where), item.noun)] * 2
        if item.noun.colour:
            found.append(self._then("then colour", item.noun.colour.named(self._language)))
        return found

    def _is_it(self, item: Item) -> Exchange:
        is_so = self._rng.random() < 0.5
        noun = item.noun.plain() if is_so else self._absent().plain()
        question = "then is it"
        be = item.noun.slots(self._language)
        slots = {key: be[key] for key in ("be", "Be", "it")}
        return self._then(question, self._yes(is_so, being=True), noun, **slots)

    def _about_them(self) -> list[Exchange]:
        found = counts(self._scene)
        if len(found) != 1:
            return []
        ((noun, count),) = found.items()
        return [self._then("then count", self._amount(count, noun), noun)]

    def _description(self) -> str:
        scene, language = self._scene, self._language
        name = name_of(scene, language)
        if places := self._named_places():
            return described_places(self._items, places, language)
        if scene.kind == "one thing" and scene.background.colour:
            colour = scene.background.colour.named(language)
            if language == "zh":
                return f"{colour}背景上的{name}"
            return f"{name} on {'an' if colour == 'orange' else 'a'} {colour} background"
        if scene.texts and not scene.things:
            colour = scene.texts[0].colour.named(language)
            return f"{colour}的{name}" if language == "zh" else f"{name} in {colour}"
        return name

    # where things are

    def _named_places(self) -> tuple[str, ...]:
        layouts = _PLACES.get(self._scene.layout)
        return layouts[len(self._items) - 2] if layouts else ()

    def _is_at(self, where: str) -> str:
        return f"在{where}" if self._language == "zh" else where

    def _places(self) -> Iterator[Topic]:
        language, rng = self._language, self._rng
        places = self._named_places()
        if len(self._items) == 1 and (place := place_of(self._items[0].box)):
            noun = self._items[0].noun
            where = self._is_at(at(place, language))
            yield Topic(
                self._ask("where", where, "where", noun.plain()), [self._is_it(self._items[0])]
            )
        for i, place in enumerate(places):
            j = rng.choice([j for j in range(len(places)) if j != i])
            one, other = self._items[i].noun, self._items[j].noun
            here, there = at(place, language), at(places[j], language)
            what = self._ask("what at", one.one(language), "where", one, at=here)
            yield Topic(what, [self._then("then at", other.one(language), other, at=there)])
            yield Topic(
                self._ask("where", self._is_at(here), "where", one.plain()),
                [self._then("then this", self._is_at(there), other.plain())],
            )

    # how many

    def _counts(self) -> Iterator[Topic]:
        found = counts(self._scene)
        ambiguous = len({noun.plain() for noun in found}) < len(found)
        for noun, count in found.items():
            if count == 1 and self._rng.random() < (
                0.7 if self._scene.kind != "many things" else 0.4
            ):
                continue
            named = noun if ambiguous or self._rng.random() < 0.2 else noun.plain()
            others = [other for other in found if other != noun]
            then = [
                self._then(
                    "then this", self._amount(found[other], other), other, the=self._them(other)
                )
                for other in others
            ]
            yield Topic(self._ask("count", self._amount(count, noun), "count", named), then)
        if len(found) > 1 or (found and self._rng.random() < 0.3):
            noun = THING if self._scene.things else SHAPE
            total = self._amount(len(self._items), noun)
            yield Topic(self._ask("count", total, "count", noun))
        if self._rng.random() < 0.12:
            noun = self._absent()
            yield Topic(self._ask("count", self._amount(0, noun), "count", noun))

    def _them(self, noun: Noun) -> str:
        many = noun.many(self._language)
        return many if self._language == "zh" else f"the {many}"

    # whether there is

    def _exists(self) -> Iterator[Topic]:
        found = counts(self._scene)
        if found and self._rng.random() < 0.7:
            noun = self._rng.choice(list(found))
            then = []
            if len(self._items) == 1:
                then = self._about_it()[1:]
            elif found[noun] > 1:
                then = [self._then("then count", self._amount(found[noun], noun), noun)]
            plain = self._rng.random() < 0.5 and not then
            named = noun.plain() if plain else noun
            yield Topic(self._ask("exists", self._yes(True), "exists", named), then)
        if not found or self._rng.random() < 0.7:
            yield Topic(self._ask("exists", self._yes(False), "exists", self._absent()))

    def _absent(self) -> Noun:
        """Something that is not there, now and then alike."""
        rng, present = self._rng, counts(self._scene)
        plain = {noun.plain() for noun in present}
        while True:
            if self._scene.shapes and rng.random() < 0.8:
                colour = rng.choice(COLOURS) if rng.random() < 0.5 else None
                noun = Noun.of(rng.choice(SHAPES), colour)
            elif self._scene.things and rng.random() < 0.3:
                near = things().index(self._scene.things[0].thing) + rng.choice(
                    (-3, -2, -1, 1, 2, 3)
                )
                noun = Noun.of(things()[near % len(things())])
            else:
                noun = Noun.of(rng.choice(things()))
            if noun not in present and noun not in plain:
                return noun

    # colours

    def _colours(self) -> Iterator[Topic]:
        coloured: list[tuple[Noun, Colour]] = []
        shapes = [noun for noun in counts(self._scene) if noun.colour]
        if len({noun.plain() for noun in shapes}) == len(shapes) == len(self._items):
            coloured += [(noun.plain(), noun.colour) for noun in shapes if noun.colour]
        coloured += [(TEXTS[text.kind], text.colour) for text in self._scene.texts]
        coloured += [(bar_noun(bar), bar.colour) for bar in self._scene.bars]
        if self._scene.background.colour:
            coloured.append((BACKGROUND, self._scene.background.colour))
        for noun, colour in coloured:
            others = [(n, c) for n, c in coloured if n != noun]
            then = [
                self._then("then this", c.named(self._language), n)
                for n, c in self._rng.sample(others, min(2, len(others)))
            ]
            yield Topic(self._ask("colour", colour.named(self._language), "colour", noun), then)

    # what is written

    def _texts(self) -> Iterator[Topic]:
        for text in self._scene.texts:
            noun = TEXTS[text.kind]
            then = [self._then("then colour", text.colour.named(self._language), noun)]
            question = f"read {text.kind}" if self._rng.random() < 0.7 else "read"
            asked = self._ask(question, "x", "read")
            yield Topic(Exchange(asked.question, text.string, "read"), then)

    # charts

    def _chart(self) -> Iterator[Topic]:
        bars, language = sorted(self._scene.bars, key=lambda bar: bar.height), self._language
        if not bars:
            return
        yield Topic(self._ask("count", self._amount(len(bars), BAR), "count", BAR))
        extremes = {"largest": bars[-1]}
        if bars[0].height < 0.88 * bars[1].height - 0.03:
            extremes["smallest"] = bars[0]
        for extreme, bar in extremes.items():
            most = self._rng.choice(EXTREMES[extreme][language])
            colour = bar.colour.named(language)
            then = [self._then("then colour", colour)]
            yield Topic(self._ask("extreme", bar.letter, "chart", most=most), then)
            the = f"{most}的柱子" if language == "zh" else f"the {most} bar"
            yield Topic(self._ask("colour", colour, "chart", the=the))
