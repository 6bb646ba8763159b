"""A DeepChem regressor on molcmim embeddings, from a CSV file to a test score.

python examples/03_deepchem.py --csv delaney-processed.csv
"""

import argparse

import deepchem as dc
from sklearn.svm import SVR

from molcmim.deepchem import MolCMIMFeaturizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--csv", required=True, help="MoleculeNet's delaney-processed.csv")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

loader = dc.data.CSVLoader(
    tasks=["measured log solubility in mols per litre"],
    feature_field="smiles",
    featurizer=MolCMIMFeaturizer(arguments.checkpoint, embedding="mean"),
)
train, valid, test = dc.splits.ScaffoldSplitter().train_valid_test_split(loader.create_dataset(arguments.csv))
normalize = dc.trans.NormalizationTransformer(transform_X=True, dataset=train)
train, test = normalize.transform(train), normalize.transform(test)
model = dc.models.SklearnModel(SVR(C=10, epsilon=0.05))
model.fit(train)
print(model.evaluate(test, [dc.metrics.Metric(dc.metrics.rms_score)]))
