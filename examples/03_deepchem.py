"""A DeepChem regressor on molcmim embeddings, on MoleculeNet's own loader, from the file to a test score.

python examples/03_deepchem.py --data FOLDER_WITH_DELANEY_PROCESSED_CSV
"""

import argparse

import deepchem as dc
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from molcmim.deepchem import MolCMIMFeaturizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default=None, help="folder with delaney-processed.csv; default: a download")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

featurizer = MolCMIMFeaturizer(arguments.checkpoint, embedding="both")
_, (train, _, test), _ = dc.molnet.load_delaney(
    featurizer, splitter="scaffold", transformers=[], reload=False, data_dir=arguments.data
)
model = dc.models.SklearnModel(make_pipeline(StandardScaler(), SVR(C=10, gamma=0.25 / train.X.shape[1], epsilon=0.05)))
model.fit(train)
print(model.evaluate(test, [dc.metrics.Metric(dc.metrics.rms_score)]))
