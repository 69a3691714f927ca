"""Own data: folders and files of users, in the layouts that they have, as the recipes and `fit` take them.

`from_folder` gives `tf.data` for `fit`, `understand` says what data holds, and `keras-dl train NAME --data PATH` trains
a recipe on it. docs/own_data.md shows each form.
"""

from keras_dl.recipes.data.fitting import Folder, from_folder
from keras_dl.recipes.data.forms import FORMS, find_form, open_data
from keras_dl.recipes.data.own import OwnData
from keras_dl.recipes.data.understanding import as_text, understand

__all__ = ["FORMS", "Folder", "OwnData", "as_text", "find_form", "from_folder", "open_data", "understand"]
