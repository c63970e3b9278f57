"""The viewer's page in a real browser: what is drawn is what the model computes.

Screenshots are kept in ``build/viewer``.
"""

import math
import shutil
from pathlib import Path

import pytest
import torch
from tiny_transformers import tiny_inputs, tiny_model
from torch import nn

from dyngraph import Grid
from dyngraph.models import SmallTrunk, mask_rcnn, segmenter
from dyngraph.nn import DGMN2Conv, DGMNBlock, RepGraphConv
from dyngraph.samplers import OffsetSampler
from dyngraph.viz import capture_input, dynamic_nodes, explore, nonlocal_affinities
from dyngraph.viz.recorder import record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = Path(__file__).parents[2] / "build/viewer"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HEIGHT, WIDTH = 24, 40  # of the image; 6x10 nodes

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


class Page:
    """A page that is open, without any network."""

    def __init__(self, page):
        self.page = page

    def state(self):
        # What follows an action is drawn in the next frame.
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        return self.page.evaluate("window.dyngraphState")

    def stage(self, panel=0):
        return self.page.locator(".stage").nth(panel)

    def point(self, row, column, panel=0):
        """Points at the middle of a pixel of the image."""
        box = self.stage(panel).bounding_box()
        y = box["y"] + (row + 0.5) / HEIGHT * box["height"]
        x = box["x"] + (column + 0.5) / WIDTH * box["width"]
        self.page.mouse.move(x, y)
        return self.state()["panels"]

    def drawn(self, selector, panel=0):
        """The attributes of what is drawn."""
        script = (
            "all => all.map(e => Object.fromEntries([...e.attributes].map(a => [a.name, a.value])))"
        )
        return self.stage(panel).locator(selector).evaluate_all(script)

    def choose(self, name):
        self.page.get_by_role("tab", name=name, exact=True).or_(
            self.page.get_by_role("radio", name=name, exact=True)
        ).or_(self.page.get_by_role("button", name=name, exact=True)).first.click()
        return self.state()["panels"]


@pytest.fixture
def show(browser, tmp_path, request):
    """Opens the page of a viewer; nothing may go wrong on it, and nothing be asked for."""
    troubles, contexts = [], []

    def open_page(viewer, **options):
        path = viewer.save(tmp_path / "page.html")
        context = browser.new_context(
            offline=True, viewport={"width": 1300, "height": 800}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else troubles.append(r.url),
        )
        page.goto(path.as_uri())
        page.locator(".stage").first.wait_for()
        opened = Page(page)
        opened.state()
        return opened

    yield open_page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for number, context in enumerate(contexts):
        context.pages[0].screenshot(path=SCREENSHOTS / f"{request.node.name}-{number}.png")
        context.close()
    assert troubles == []


def make_model(context="repgraph"):
    model = segmenter(SmallTrunk(8), context, num_classes=5, head_channels=8).eval()
    for module in model.modules():
        if isinstance(module, OffsetSampler):
            nn.init.normal_(module.offset.weight, std=3.0)
            nn.init.uniform_(module.offset.bias, -4, 4)
    for name, parameter in model.named_parameters():
        if name.startswith("classifier.1.conv.lin_"):
            nn.init.normal_(parameter, std=2.0)
    return model


def make_image():
    return torch.randn(1, 3, HEIGHT, WIDTH)


def repgraph(model, image):
    conv, x, grid = capture_input(model, RepGraphConv, image)
    with torch.no_grad():
        return conv.sample(x, grid)[1:]


@pytest.mark.parametrize(("row", "column"), [(3, 5), (13, 22), (23, 39), (0, 0)])
def test_dots_are_the_samples_of_the_node_under_the_pointer(show, row, column):
    model, image = make_model(), make_image()
    page = show(explore(model, image))
    (panel,) = page.point(row, column)
    node = row // 4 * 10 + column // 4
    assert (panel["node"], panel["row"], panel["column"]) == (node, row // 4, column // 4)
    near, weight = repgraph(model, image)
    pos, alpha, largest = near.pos[node], weight[node, 0], float(weight.max())
    dots = page.drawn("circle.dot")
    assert sorted(int(dot["data-sample"]) for dot in dots) == list(range(9))
    box = page.stage().bounding_box()
    full = max(14, min(32, math.sqrt(box["width"] * box["height"]) * 0.043))
    for dot in dots:
        sample = int(dot["data-sample"])
        want = float(alpha[sample])
        assert float(dot["data-weight"]) == pytest.approx(want, abs=largest / 255)
        # The area is the weight, but for those that would not be seen.
        share = float(dot["data-weight"]) / largest
        assert float(dot["r"]) == pytest.approx(max(2, full * math.sqrt(share)), rel=1e-3)
        y, x = pos[sample].tolist()
        if "outside" not in dot["class"]:
            assert float(dot["cx"]) == pytest.approx((x + 0.5) / 10 * box["width"], abs=1)
            assert float(dot["cy"]) == pytest.approx((y + 0.5) / 6 * box["height"], abs=1)
            assert -0.6 <= y <= 5.6
            assert -0.6 <= x <= 9.6
        else:
            assert not (-0.4 <= y <= 5.4 and -0.4 <= x <= 9.4)
    # Lines from the node to each.
    assert len(page.drawn("line.thread")) == 9


def test_the_nodes_that_are_read_with_their_interpolation(show):
    model, image = make_model(), make_image()
    page = show(explore(model, image))
    page.point(9, 17)
    node = 2 * 10 + 4
    near, _ = repgraph(model, image)
    index, weight = near.corners()
    want = torch.zeros(60).index_add(0, index[node].flatten().long(), weight[node].flatten())
    drawn = torch.zeros(60)
    for cell in page.drawn("rect.read"):
        drawn[10 * int(cell["data-row"]) + int(cell["data-column"])] += float(cell["data-part"])
    # Positions are known to half of 1/64 node along each axis.
    torch.testing.assert_close(drawn, want, rtol=0, atol=9 / 64)
    page.page.get_by_label("nodes read").uncheck()
    page.state()
    assert page.drawn("rect.read") == []


def test_of_every_second_node(show):
    """12x20 nodes, of which a page of few bytes has 6x10."""
    model, image = make_model(), torch.randn(1, 3, 2 * HEIGHT, 2 * WIDTH)
    page = show(explore(model, image, most_bytes=3000))
    (panel,) = page.point(13, 22)
    # Node 6, 11 is under the pointer; row 7 is stored.
    assert (panel["row"], panel["column"], panel["node"]) == (7, 11, 3 * 10 + 5)
    _, weight = repgraph(model, image)
    want = weight[7 * 20 + 11, 0].tolist()
    got = {int(d["data-sample"]): float(d["data-weight"]) for d in page.drawn("circle.dot")}
    assert [got[k] for k in range(9)] == pytest.approx(want, abs=0.004)
    page.choose("Who listens")
    canvas = page.stage().locator(".heat")
    assert canvas.evaluate("c => [c.height, c.width, c.style.height]") == [6, 10, "100%"]
    assert "every 2nd row and column" in page.page.locator(".info").inner_text()


def test_who_listens_is_the_transposed_graph(show):
    model, image = make_model(), make_image()
    page = show(explore(model, image))
    near, weight = repgraph(model, image)
    edges, alpha = near.edges(), near.corner_alpha(weight)[:, 0]
    page.page.keyboard.press("2")
    source = int(edges.index[0].bincount(weights=alpha).argmax())
    (panel,) = page.point(4 * (source // 10) + 1, 4 * (source % 10) + 1)
    mine = edges.index[0] == source
    want = torch.zeros(60).index_add(0, edges.index[1][mine], alpha[mine])
    assert int(want.count_nonzero()) > 1
    got = torch.tensor(panel["listeners"])
    torch.testing.assert_close(got, want, rtol=0, atol=0.02)
    shown = (
        "c => [c.width, c.height, c.hidden, ...c.getContext('2d').getImageData(0, 0, 10, 6).data]"
    )
    width, height, hidden, *pixels = page.stage().locator(".heat").evaluate(shown)
    assert (width, height, hidden) == (10, 6, False)
    opacity = torch.tensor(pixels).view(60, 4)[:, 3]
    assert torch.equal(opacity > 0, got > 0)
    assert opacity.argmax() == got.argmax()


def test_the_density_of_listening(show):
    model, image = make_model(), make_image()
    page = show(explore(model, image))
    near, weight = repgraph(model, image)
    edges, alpha = near.edges(), near.corner_alpha(weight)[:, 0]
    want = torch.zeros(60).index_add(0, edges.index[0], alpha)
    (panel,) = page.choose("Density")
    got = torch.tensor(panel["density"])
    torch.testing.assert_close(got, want / want.mean(), rtol=0.03, atol=0.03)


def test_filters_and_affinities_of_rates(show):
    model = segmenter(
        SmallTrunk(8), lambda c: DGMNBlock(c, rates=(1, 2)), num_classes=5, head_channels=8
    )
    for parameter in model.classifier[1].parameters():
        nn.init.normal_(parameter, std=0.3)
    image = make_image()
    page = show(explore(model, image))
    samples = dynamic_nodes(model, image)
    page.point(13, 21)
    node = 3 * 10 + 5
    filters = torch.cat([w[node] for _, w, _ in samples], dim=1)
    affinities = torch.cat([a[node] for _, _, a in samples], dim=1)[0]

    def weights():
        dots = page.drawn("circle.dot")
        return torch.tensor(
            [float(d["data-weight"]) for d in sorted(dots, key=lambda d: int(d["data-sample"]))]
        )

    torch.testing.assert_close(weights(), affinities, rtol=0, atol=1 / 255)
    page.choose("filters")
    step = max(float(w.abs().max()) for _, w, _ in samples) / 127
    torch.testing.assert_close(weights(), filters.abs().mean(dim=0), rtol=0, atol=step)
    page.choose("2")
    torch.testing.assert_close(weights(), filters[1], rtol=0, atol=step)
    dots = page.drawn("circle.dot")
    assert any(float(dot["data-weight"]) < 0 for dot in dots)
    assert all(("hollow" in d["class"]) == (float(d["data-weight"]) < 0) for d in dots)
    # A colour for each rate.
    assert len({dot["fill"] for dot in dots}) == 2
    page.choose("products")
    torch.testing.assert_close(weights(), filters[1] * affinities, rtol=0, atol=1.1 * step)
    page.choose("rate 1")
    dots = page.drawn("circle.dot")
    assert sorted(int(dot["data-sample"]) for dot in dots) == list(range(9, 18))
    assert len({dot["fill"] for dot in dots}) == 1


def test_heads_have_samples_of_their_own(show):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 8, 4, stride=4)
            self.first = DGMN2Conv(8, heads=2, map_size=(6, 10))
            self.second = DGMN2Conv(8, heads=1, map_size=(6, 10))

        def forward(self, image):
            maps = self.features(image)
            x, grid = maps[0].flatten(1).t(), Grid.of(maps)
            return self.second(self.first(x, grid), grid)

    model, image = Attention(), make_image()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    page = show(explore(model, image))
    page.point(12, 20)
    node = 3 * 10 + 5
    first, second = record(model, lambda: model(image)).layers
    assert len(page.drawn("circle.dot")) == 18
    page.choose("2")
    dots = page.drawn("circle.dot")
    assert {dot["data-head"] for dot in dots} == {"1"}
    want = first.weights["attention"][node, 1]
    for dot in dots:
        weight = float(want[int(dot["data-sample"])])
        assert float(dot["data-weight"]) == pytest.approx(weight, abs=0.004)
    page.choose("second")
    # A layer is unpacked when it is looked at for the first time.
    page.page.get_by_text("DGMN2Conv at second").wait_for()
    (panel,) = page.state()["panels"]
    assert panel["layer"] == "second"
    assert page.page.evaluate("document.activeElement.textContent") == "second"
    want = second.weights["attention"][node, 0].sort(descending=True).values
    got = [float(dot["data-weight"]) for dot in page.drawn("circle.dot")]
    assert got == pytest.approx(want.tolist(), abs=0.004)


def test_the_histograms_of_all_nodes_and_of_one(show):
    model, image = make_model("nonlocal"), make_image()
    page = show(explore(model, image))
    page.point(1, 1)
    affinity = nonlocal_affinities(model, image)
    all_nodes, one_node = (
        page.page.locator("svg.bars").nth(number).locator("rect") for number in (0, 1)
    )
    counts = [
        bars.evaluate_all("all => all.map(bar => Number(bar.dataset.count))")
        for bars in (all_nodes, one_node)
    ]
    assert [sum(part) for part in counts] == [3600, 60]
    fifths = (affinity.log10() * 5).floor().clamp(min=-30)
    assert counts[0] == fifths.unique(return_counts=True)[1].tolist()
    assert len(page.drawn("circle.dot")) == 60


def test_walking_and_pinning_by_the_keyboard(show):
    page = show(explore(make_model(), make_image()))
    page.point(9, 17)
    page.stage().focus()
    keys = page.page.keyboard.press
    assert page.state()["panels"][0]["node"] == 24
    for key, node in [
        ("ArrowRight", 25),
        ("ArrowDown", 35),
        ("ArrowLeft", 34),
        ("ArrowUp", 24),
        ("Shift+ArrowRight", 29),
        ("ArrowRight", 29),
    ]:
        keys(key)
        assert page.state()["panels"][0]["node"] == node
    assert "Node 2, 9: 9 samples" in page.page.locator("#live").inner_text()
    keys("Enter")
    keys("ArrowLeft")
    state = page.state()
    assert (state["pins"], state["panels"][0]["pins"]) == (1, [29])
    assert {dot["data-node"] for dot in page.drawn("circle.dot")} == {"29", "28"}
    keys("Escape")
    page.state()
    assert {dot["data-node"] for dot in page.drawn("circle.dot")} == {"28"}


def test_clicking_pins_several(show):
    page = show(explore(make_model(), make_image()))
    for row, column in [(1, 1), (9, 17), (22, 37)]:
        page.point(row, column)
        page.page.mouse.down()
        page.page.mouse.up()
    page.point(13, 1)
    assert page.state()["panels"][0]["pins"] == [0, 24, 59]
    assert {dot["data-node"] for dot in page.drawn("circle.dot")} == {"0", "24", "59", "30"}
    page.point(9, 17)
    page.page.mouse.down()
    page.page.mouse.up()
    assert page.state()["panels"][0]["pins"] == [0, 59]


def test_a_touch_looks_and_the_next_one_pins(show):
    page = show(explore(make_model(), make_image()), has_touch=True)
    box = page.stage().bounding_box()
    place = {"x": box["width"] * 0.45, "y": box["height"] * 0.42}
    page.stage().tap(position=place)
    state = page.state()
    assert (state["pins"], state["panels"][0]["node"]) == (0, 24)
    page.stage().tap(position=place)
    assert page.state()["pins"] == 1


def test_the_scores_of_a_pixel_and_its_label(show):
    model, image = make_model(), make_image()
    label = torch.randint(4, (HEIGHT, WIDTH))
    label[13, 22] = 255
    page = show(explore(model, image, label=label, class_names=["a", "b", "c", "d", "e"]))
    with torch.no_grad():
        scores = model(image)["out"][0].softmax(dim=0)
    for row, column in [(5, 8), (13, 22)]:
        (panel,) = page.point(row, column)
        want = scores[:, row, column].sort(descending=True)
        assert [c for c, _ in panel["scores"]] == want.indices.tolist()
        assert [s for _, s in panel["scores"]] == pytest.approx(want.values.tolist(), abs=0.002)
        assert panel["predicted"] == want.indices[0]
        assert panel["label"] == label[row, column]
    palette = page.page.evaluate("JSON.parse(document.getElementById('data').textContent).palette")
    for name, classes in [("prediction", scores.argmax(dim=0)), ("label", label)]:
        page.page.get_by_label(name, exact=True).fill("1")
        page.state()
        canvas = page.stage().locator("canvas").nth(0 if name == "prediction" else 1)
        assert canvas.evaluate("c => getComputedStyle(c).opacity") == "1"
        script = f"c => [...c.getContext('2d').getImageData(0, 0, {WIDTH}, {HEIGHT}).data]"
        pixels = torch.tensor(canvas.evaluate(script)).view(HEIGHT, WIDTH, 4)
        colours = torch.tensor([*palette, *[[0, 0, 0]] * 251])[classes]
        assert torch.equal(pixels[..., :3], colours)
        assert torch.equal(pixels[..., 3] == 0, classes == 255)


def test_two_models_with_one_pointer(show):
    models = {"one": make_model(), "other": make_model("bottleneck_repgraph")}
    image = make_image()
    page = show(explore(models, image))
    panels = page.point(10, 30, panel=1)
    assert [panel["model"] for panel in panels] == ["one", "other"]
    assert [panel["node"] for panel in panels] == [27, 27]
    for number, model in enumerate(models.values()):
        _, weight = repgraph(model, image)
        dots = page.drawn("circle.dot", number)
        got = {int(dot["data-sample"]): float(dot["data-weight"]) for dot in dots}
        want = weight[27, 0].tolist()
        assert [got[k] for k in range(9)] == pytest.approx(want, abs=0.004)


def test_the_objects_of_a_detector_of_transformers(show):
    model = tiny_model("rt_detr").float()
    inputs = {key: value[:1].float() for key, value in tiny_inputs("rt_detr").items()}
    with torch.no_grad():
        output = model(**inputs)
    scores = output.logits[0].sigmoid().max(dim=1).values
    page = show(explore(model, inputs, threshold=0.0))
    boxes = page.drawn("rect.box")
    assert len(boxes) == len(scores) == 6
    best = scores.argmax()
    _, y, width, height = output.pred_boxes[0, best].tolist()
    stage = page.stage().bounding_box()
    # Boxes are drawn below each other, the most certain first.
    drawn = boxes[-1]
    assert float(drawn["width"]) == pytest.approx(width * stage["width"], abs=0.5)
    assert float(drawn["y"]) == pytest.approx((y - height / 2) * stage["height"], abs=0.5)
    # An object leads to its query.
    page.page.locator(".objects button").first.click()
    (panel,) = page.state()["panels"]
    assert panel["node"] == best
    # Levels are sets of samples.
    layer = record(model, lambda: model(**inputs)).layers[0]
    dots = page.drawn("circle.dot")
    assert len(dots) == 2 * 12
    for dot in dots:
        want = layer.weights["attention"][best, int(dot["data-head"]), int(dot["data-sample"])]
        assert float(dot["data-weight"]) == pytest.approx(float(want), abs=0.004)


def test_the_true_objects_of_a_detector(show):
    model = mask_rcnn("resnet18", context="repgraph", num_classes=2, min_size=32, max_size=64)
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    masks[0, 4:12, 6:26] = masks[1, 8:20, 10:14] = 1
    boxes = torch.tensor([[6.0, 4, 26, 12], [10, 8, 14, 20]])
    label = {"boxes": boxes, "labels": torch.tensor([2, 1]), "masks": masks}
    image = [torch.rand(3, HEIGHT, WIDTH)]
    page = show(explore(model, image, label=label, class_names=["cat", "dog"], threshold=1.0))
    assert page.drawn("rect.box") == []
    page.page.get_by_label("label", exact=True).fill("1")
    page.state()
    drawn = page.drawn("rect.box")
    stage = page.stage().bounding_box()
    # Below each other, the first on top.
    for rect, (left, top, right, bottom) in zip(drawn, boxes.flip(0).tolist(), strict=True):
        assert float(rect["x"]) == pytest.approx(left / WIDTH * stage["width"], abs=0.5)
        assert float(rect["y"]) == pytest.approx(top / HEIGHT * stage["height"], abs=0.5)
        assert float(rect["width"]) == pytest.approx(
            (right - left) / WIDTH * stage["width"], abs=0.5
        )
        assert float(rect["height"]) == pytest.approx(
            (bottom - top) / HEIGHT * stage["height"], abs=0.5
        )
    dashes = "e => getComputedStyle(e).strokeDasharray"
    assert page.stage().locator("rect.box").first.evaluate(dashes) == "6px, 4px"
    card = page.page.get_by_label("True objects")
    assert card.locator("button").all_inner_texts() == ["dog", "cat"]
    palette = page.page.evaluate("JSON.parse(document.getElementById('data').textContent).palette")
    canvas = page.stage().locator("canvas").nth(1)
    script = f"c => [...c.getContext('2d').getImageData(0, 0, {WIDTH}, {HEIGHT}).data]"
    pixels = torch.tensor(canvas.evaluate(script)).view(HEIGHT, WIDTH, 4)
    assert pixels[5, 7].tolist() == [*palette[1], 255]
    assert pixels[9, 11].tolist() == [*palette[1], 255]
    assert pixels[19, 13].tolist() == [*palette[0], 255]
    assert pixels[0, 0, 3] == 0
    # An object leads to its middle.
    card.locator("button").last.click()
    page.state()
    assert page.page.get_by_text("pixel 14, 12").count() == 1


def test_texts_from_elsewhere_stay_texts(show):
    bad = "</script><img src=x onerror=alert(1)>"
    page = show(
        explore({bad: make_model()}, make_image(), class_names=[bad] * 5, title=bad),
    )
    page.point(3, 3)
    assert page.page.locator("h2").inner_text() == bad
    assert page.page.title() == f"{bad}, dyngraph"
    assert page.page.locator("img[src=x]").count() == 0


def test_names_for_screen_readers_and_colours_for_the_night(show):
    model, image = make_model("dgmn"), make_image()
    page = show(explore(model, image), color_scheme="dark")
    for role, name in [
        ("application", "Segmenter: arrow keys move to other nodes, Enter pins one"),
        ("radiogroup", "view"),
        ("tablist", "weights"),
        ("group", "samples"),
        ("slider", "prediction"),
        ("checkbox", "nodes read"),
        ("region", "Segmenter"),
    ]:
        assert page.page.get_by_role(role, name=name).count() == 1, (role, name)
    page.page.get_by_role("tab", name="affinities").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.state()["panels"][0]["kind"] == "filters"
    assert page.page.evaluate("document.activeElement.textContent") == "filters"
    dark = "getComputedStyle(document.body).backgroundColor"
    assert page.page.evaluate(dark) == "rgb(18, 20, 24)"
    page.page.emulate_media(color_scheme="light")
    assert page.page.evaluate(dark) == "rgb(245, 245, 242)"


def test_a_notebook_shows_the_page_in_a_frame(browser):
    viewer = explore(make_model(), make_image())
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 800})
    page = context.new_page()
    page.set_content(f"<p>notebook</p>{viewer._repr_html_()}")
    frame = page.frames[1]
    frame.locator("circle.dot").first.wait_for()
    assert frame.locator("circle.dot").count() == 9
    context.close()
