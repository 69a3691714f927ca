"""The tables and small images of scikit-learn: breast cancer, diabetes, and digits of 8x8 pixels."""

import numpy as np
import tensorflow_datasets as tfds

from keras_dl.extras import require
from keras_dl.recipes.datasets.builder import Builder
from keras_dl.recipes.datasets.mnist_5k import stratified_split

UCI_LICENCE = "BSD-3-Clause (scikit-learn); at the UCI repository: CC BY 4.0"


def load_table(name, **options):
    """A data set of scikit-learn, which is imported only when it is built: `sklearn.datasets.load_<name>`."""
    return getattr(require("sklearn.datasets", extra="recipes"), f"load_{name}")(**options)


class BreastCancer(Builder):
    """Breast Cancer Wisconsin (Diagnostic)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "All 569 rows in one split."}
    TITLE = "Breast Cancer Wisconsin (Diagnostic): 30 features, malignant or benign"
    LICENCE = UCI_LICENCE
    SOURCE = None
    EXAMPLES = {"train": 569}

    def _info(self):
        table = load_table("breast_cancer")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            569 fine needle aspirates of breast masses, 212 malignant and 357 benign: the mean, the standard error
            and the worst of ten measures of the cell nuclei in each image, unscaled. The names of the 30 columns are
            `info.metadata["feature_names"]`. Read from scikit-learn; there is one split, `train`, as there
            is no published one.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(30,), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=table.target_names.tolist()),
                }
            ),
            supervised_keys=("features", "label"),
            homepage="https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic",
            citation="""
            @inproceedings{street1993nuclear,
              title={Nuclear feature extraction for breast tumor diagnosis},
              author={Street, W. Nick and Wolberg, William H. and Mangasarian, Olvi L.},
              booktitle={Biomedical Image Processing and Biomedical Visualization},
              volume={1905},
              pages={861--870},
              year={1993},
              organization={SPIE}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(feature_names=table.feature_names.tolist()),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        table = load_table("breast_cancer")
        for row, (features, label) in enumerate(zip(table.data, table.target, strict=True)):
            yield row, {"features": features.astype(np.float32), "label": int(label)}


class Diabetes(Builder):
    """Progression of diabetes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "All 442 rows in one split."}
    TITLE = "Diabetes: 10 baseline measures, progression after one year"
    LICENCE = "BSD-3-Clause (scikit-learn)"
    SOURCE = None
    EXAMPLES = {"train": 442}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            442 diabetes patients: age, sex, body mass index, mean blood pressure and six blood serum
            measures, unscaled, and a quantitative measure of the disease's progression one year later, from 25 to
            346. The names of the 10 columns are `info.metadata["feature_names"]`. Read from scikit-learn; there is
            one split, `train`, as there is no published one.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(10,), dtype=np.float32),
                    "target": tfds.features.Scalar(np.float32),
                }
            ),
            supervised_keys=("features", "target"),
            homepage="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
            citation="""
            @article{efron2004least,
              title={Least angle regression},
              author={Efron, Bradley and Hastie, Trevor and Johnstone, Iain and Tibshirani, Robert},
              journal={The Annals of Statistics},
              volume={32},
              number={2},
              pages={407--499},
              year={2004}
            }
            """,
            license=self.LICENCE,
            metadata=tfds.core.MetadataDict(feature_names=load_table("diabetes").feature_names),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        table = load_table("diabetes", scaled=False)
        for row, (features, target) in enumerate(zip(table.data, table.target, strict=True)):
            yield row, {"features": features.astype(np.float32), "target": target}


class Optdigits(Builder):
    """Optical recognition of handwritten digits."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "1,447 digits for training and 350 for the test, split by class."}
    TITLE = "1,797 handwritten digits by other writers than MNIST's, 8x8"
    LICENCE = UCI_LICENCE
    SOURCE = None
    EXAMPLES = {"train": 1447, "test": 350}
    SEED = 2026
    TEST_PER_CLASS = 35

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"""
            1,797 handwritten digits by 13 writers: the test set of UCI's "Optical Recognition of Handwritten
            Digits", as scikit-learn brings it. A pixel of the 8x8 images counts the inked ones among 4x4 pixels
            of a bitmap, 0 to 16; here it is scaled to 0 to 255 and rounded. The source has no split: here
            {self.TEST_PER_CLASS} digits of each class, drawn with the seed {self.SEED}, are the test split. The same
            writers are in both.
            License: {self.LICENCE}.
            """,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            citation="""
            @article{alpaydin1998cascading,
              title={Cascading classifiers},
              author={Alpaydin, Ethem and Kaynak, Cenk},
              journal={Kybernetika},
              volume={34},
              number={4},
              pages={369--374},
              year={1998}
            }
            """,
            license=self.LICENCE,
        )

    def _split_generators(self, dl_manager):
        table = load_table("digits")
        rows = stratified_split(table.target, self.TEST_PER_CLASS, self.SEED)
        return {split: self._generate_examples(table, rows[split]) for split in rows}

    def _generate_examples(self, table, rows):
        for row in rows:
            image = np.rint(table.images[row] * (255 / 16)).astype(np.uint8)
            yield int(row), {"image": image[..., None], "label": int(table.target[row])}
