"""A solubility regressor in a scikit-learn pipeline, its hyperparameters chosen by cross-validation.

python examples/02_sklearn.py --data FOLDER_WITH_ESOL
"""

import argparse

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from molcmim import datasets
from molcmim.sklearn import MolCMIMTransformer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default=None, help="folder with esol.csv; default: MolCMIM's cache, or a download")
parser.add_argument("--checkpoint", default="molcmim-small")
arguments = parser.parse_args()

esol = datasets.load("esol", arguments.data)
split = datasets.split(esol, "scaffold", seed=0)
X = MolCMIMTransformer(arguments.checkpoint, embedding="both").transform(esol["smiles"])  # once, not once a fold
y = esol["y"].to_numpy()
fit = np.concatenate([split.train, split.valid])
model = GridSearchCV(make_pipeline(StandardScaler(), SVR(epsilon=0.05)), {"svr__C": [1, 3, 10]}, cv=3)
model.fit(X[fit], y[fit])
error = model.predict(X[split.test]) - y[split.test]
print(f"{model.best_params_}: scaffold-split test RMSE {np.sqrt(np.mean(error**2)):.3f} log10(mol/L)")
