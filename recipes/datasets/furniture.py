"""Furniture and other objects of houses as clouds of points with a class: meshes that people drew, in ten classes.

The catalog of the source has rooms as categories, not shapes. `CLASSES` says for each class which names of the catalog
belong to it; other objects are left out.
"""

import io
import re
import zipfile

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.ops import unit_ball
from keras_dl.ops.meshes import sample_surface
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.debs import Deb
from keras_dl.recipes.datasets.solids import parse_obj
from keras_dl.recipes.datasets.wheels import DataError

SEED = 2026
POINTS = 2048
SWEETHOME = Deb(
    "sweethome3d-furniture_1.8-1_all.deb",
    sha256="3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    licence="CC0 and CC BY 3.0",
    bytes=119782356,
)
FOLDER = "usr/share/sweethome3d/furniture"
_CATALOG = "PluginFurnitureCatalog.properties"
CLASSES = {
    "bed": """Baby bed, Bed, Bunk bed, Captain's bed, Child bed, Crib, Day bed, Hospital bed, Iron bed,
        Mezzanine bed""",
    "cabinet": """Bedside table, Bookcase, Chest, Cupboard, Drawers cabinet, Dresser with drawers, Filing cabinet,
        Full bookcase, Glass door cabinet, High cabinet, Locked locker, Lower cabinet, Lower corner cabinet, Shelves,
        Small lower cabinet, Small upper cabinet, TV stand, Television cabinet, Upper cabinet, Upper corner cabinet,
        Upper shelves cabinet, Vertical shelves, Wardrobe""",
    "chair": """Armchair, Baby high chair, Bar chair, Bar stool, Beach chair, Cafe chair, Chair, Chair with cushion,
        Child chair, Children chair, Class seat, Folding chair, Modern armchair, Oak chair, Osaka chair, Plastic chair,
        Rattan armchair, Relax chair, Ryokan chair, Stool, Teck chair, Winchester armchair""",
    "door or window": """Door, Double French window 3 panes, Double French window small panes, Double arched window,
        Double door, Double door with panes, Double window 3 panes, Double window 4 panes,
        Double window with large pane, Double-hung window, Elevator door, Exterior door, Garage door, Glass door,
        Quadruple French window, Quadruple French window 3 panes, Quadruple French window small panes,
        Quadruple arched window, Screen door, Shower door, Sliding window, Triple French window, Turn window""",
    "lamp": """Camping lamp, Ceiling lamp, Chandelier lamp, Classic lamppost, Desk lamp, Hanging light, Lamp,
        Little lamp, Outdoor lamp, Park light, Pedestal vase lamp, Pendant lamp, Porch light, Street lamp,
        Street light, Wall lamp artwork, Wall light""",
    "person": """Boy, Female, Girl, Holding female, Holding male, Lying down boy, Lying down female, Lying down male,
        Male, Mannequin female, Mannequin male, Sitting boy, Sitting female, Sitting girl, Sitting male""",
    "plant": """Acacia, Bamboo, Bended coconut tree, Blue pine under snow, Bonsai tree, Bush, Cactus, Christmas tree,
        Coconut tree, Copper beech, Cypress, Decorative plant, Ficus, Flowers, Indoor plant, Japanese maple,
        Little plant, Orchids, Palm tree, Peach blossom, Pine, Pine under snow, Plant, Poplar, Spathiphyllum,
        Spider plant, Succulent plant, Sycamore maple, Tulips, White lily, Yucca""",
    "sofa": """Burlap sofa, Clear sofa, Convertible sofa BZ, Corner sofa, Couch, Futon couch, Rattan sofa, Sofa,
        Sofa 2 seats, Sofa 3 seats, Winchester sofa""",
    "table": """Bar table, Black table, Cafe table, Children table, Coffee table, Desk, Desk table, Folding table,
        Glass table, Oak table, Rattan table, Round table, Table, Table on trestles, Table with tablecloth,
        Technical table, Wooden alder table, Wooden desk, Wooden table, Wooden teak table, Workbench""",
    "vehicle": """Bicycle, Bike, Bus, Car model, Chevrolet, City bus, Concept Sedan 01, Concept Sedan 02,
        Concept Sedan 02 Sport, Ford Focus, Motorbike, Peugeot 308 CC, Renault Scenic, SUV, Scooter, Seat Leon,
        Smart car, Truck, VW new beetle, Van, Yamaha YZR R6""",
}
CLASS_OF = {" ".join(name.split()): kind for kind, names in CLASSES.items() for name in names.split(",")}


def read_catalog(text: str):
    """The entries of a catalog of Sweet Home 3D, in their order: list of dicts of str, such as `name` and `model`.

    Args:
        text: the content of a `.properties` file: lines `key#number=value`, with `\\uXXXX` for other letters.

    Example:

    >>> read_catalog("name#1=Bed\\nmodel#1=/bed.obj\\nname#2=Caf\\\\u00e9")
    [{'name': 'Bed', 'model': '/bed.obj'}, {'name': 'Café'}]
    """
    entries = {}
    for key, number, value in re.findall(r"^[ \t]*(\w+)#(\d+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), value)
        entries.setdefault(int(number), {})[key] = value
    return [entries[number] for number in sorted(entries)]


def read_meshes(package):
    """The meshes of the ten classes, each once.

    Args:
        package: `Deb`.

    Yields:
        `(key, entry, vertices, faces)`: str, dict of the catalog, float64 `(n, 3)`, int64 `(m, 3)`. y points up.

    Raises:
        DataError: if the package is not available, or a mesh cannot be read.
    """
    for library, content in package.members(FOLDER):
        seen = set()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in read_catalog(archive.read(_CATALOG).decode("latin-1")):
                model = entry.get("model", "").lstrip("/")
                if entry.get("name") not in CLASS_OF or model in seen:
                    continue
                seen.add(model)
                try:
                    vertices, faces = parse_obj(archive.read(model).decode("latin-1"))
                except KeyError as error:
                    raise DataError(f"{library} of {package.filename} has no {model}.") from error
                if "modelRotation" in entry:
                    turn = np.array(entry["modelRotation"].split(), float).reshape(3, 3)
                    vertices = vertices @ turn.T
                yield f"{library.removesuffix('.sh3f')}/{model}", entry, vertices, faces


class Furniture(Builder):
    """Furniture and other objects of houses."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Ten classes."}
    TITLE = "Furniture, plants, people and vehicles of Sweet Home 3D: clouds of points in ten classes"
    LICENCE = "CC0 and CC BY 3.0, by the author that each object names"
    SOURCE = SWEETHOME
    EXAMPLES = {"train": 336}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            Meshes that people drew for Sweet Home 3D, in the classes {", ".join(CLASSES)}. Read from the Debian package
            {SWEETHOME.requirement}; the class is that of an object's name in a fixed table, and what has no class there
            is left out. A mesh that several entries of the catalog show is taken once. `points` has {POINTS:,} points
            that are spread evenly over the surface of a mesh, moved so that their mean is the origin and scaled to the
            unit ball; y points up. Many meshes are not watertight. There is one split, since the source
            has none. License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "points": tfds.features.Tensor(shape=(POINTS, 3), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "name": tfds.features.Text(),
                    "author": tfds.features.Text(),
                    "file": tfds.features.Text(),
                }
            ),
            homepage="https://www.sweethome3d.com",
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(source=SWEETHOME.requirement, sha256=SWEETHOME.sha256, seed=SEED),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, (key, entry, vertices, faces) in enumerate(read_meshes(self.SOURCE)):
            points, _ = sample_surface(vertices, faces, POINTS, np.random.RandomState([SEED, number]))
            points = np.asarray(unit_ball(points[None]))[0]
            author, name = entry.get("creator", ""), entry["name"]
            yield key, {"points": points, "label": CLASS_OF[name], "name": name, "author": author, "file": key}
