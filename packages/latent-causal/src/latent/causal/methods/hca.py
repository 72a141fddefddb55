"""Hierarchical component analysis: latent factors that domains share, and the causes among them (arXiv:2506.10378).

Rows of a table, such as benchmark scores of models, fall into domains, such as their base models. In each domain k the
factors z = H x follow a linear causal model z = A_k z + noise with one order for all domains and one mixing x = H^T z;
strengths and noise differ. Then the independent components of a domain are B_k H x with triangular B_k. The analysis
finds components in each domain, and the one H and the row orders that make all B_k triangular at once. The maximum
inexactness coefficient (MIC) says how far from that the data are.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latent.causal.arrays import Kind, domain_labels, matrix, table_of
from latent.causal.data.tables import DomainTable
from latent.causal.errors import DataError, DataWarning
from latent.causal.hca_resampling import Bootstrap, NullTest, adjacency_of, bootstrap, null_test, subsets_of
from latent.causal.independent_components import Components, gaussian_negentropy, independent_components
from latent.causal.order_search import check_size
from latent.causal.subspaces import deviations_within, distances, spectrum
from latent.causal.triangular import Alignment, align
from latent.core.capabilities import HasGraph
from latent.core.contract import Estimator
from latent.core.errors import ConfigError, UnknownName
from latent.core.run.seed import generator

__all__ = ["HCA"]


class HCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, Estimator, HasGraph):  # type: ignore[misc]  # scikit-learn has no types
    """Hierarchical component analysis of a table in domains.

    Factor 0 is the most upstream one. Factors are known only up to sign, and factor i only up to adding multiples of
    the factors upstream of it: `ambiguity(i)` has them. Here each has the representative that is orthogonal to them.

    Args:
        n_components: Factors, fewer than features or as many.
        restarts: Random starts of the component analysis of a domain.
        max_iter: Most iterations of a start.
        tol: When a start has converged; see `independent_components`.
        subspace_tolerance: Domains whose principal subspaces are farther apart are warned about.
        variation_draws: Shuffled tables with which variation between domains is compared; 0 leaves the check out.
        scale: `standard` analyses features divided by `scale_`, their standard deviations within domains; None takes
            them as they are. The principal subspaces, and with them the result, depend on the features' units.
        random_state: Seed of starts and shuffles.

    Attributes:
        domains_: Names of the domains, in the order in which they were given.
        scale_: What features are divided by, `(features,)`: pooled standard deviations within domains, or ones.
        unmixing_: H in the units of the features, `(components, features)`: `z = H x`. Rows are orthonormal once its
            columns are multiplied by `scale_`; without a scale they are so as they are.
        mixing_: Its pseudo-inverse in the metric of `scale_`, `(features, components)`, without a scale its transpose:
            `x = mixing_ z` up to what the factors leave out.
        triangular_: B_k of each domain, lower triangular: independent noise of unit variance is `B_k z`.
        inexactness_: Of each domain: mean share of other sources in a source, 0 to 1.
        mic_: Their maximum.
        spectrum_: Share of variance of each principal component, for each domain, of the features as scaled.
        subspace_distance_: How far the principal subspaces of two domains are apart, `(domains, domains)`, as scaled.
        variation_: How much the domains' rows of each factor differ in direction, `(components,)`; see
            `Alignment.variation`.
        non_gaussian_: p-value of each domain that its second weakest component is no more than noise would give.
        components_: Independent components of each domain, U_k, `(components, features)`, rows in no meaningful order.
        converged_: Whether the component analysis of each domain converged.
        n_iter_: Most iterations that the chosen start of a domain took.
        n_features_in_: Features.
    """

    def __init__(
        self,
        n_components: int = 3,
        *,
        restarts: int = 10,
        max_iter: int = 1000,
        tol: float = 1e-6,
        subspace_tolerance: float = 0.05,
        variation_draws: int = 20,
        scale: Literal["standard"] | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.restarts = restarts
        self.max_iter = max_iter
        self.tol = tol
        self.subspace_tolerance = subspace_tolerance
        self.variation_draws = variation_draws
        self.scale = scale
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        """Say that labels (of domains) are needed where the table is one array."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to tables in domains.

        Args:
            X: A mapping from the name of a domain to its table `(samples, features)`, a `DomainTable`, or one table.
            y: The domain of each row, when `X` is one table.

        Raises:
            DataError: Fewer than two domains, a domain without enough rows, values that are not finite, constant or
                linearly dependent columns, more components than features.
            ConfigError: A setting is out of range, or there are too many domains to try all orders.
        """
        self._check_settings()
        tables, self._kind = self._tables(X, y)
        self.domains_ = list(tables)
        self._data = list(tables.values())
        self._check_tables()
        self._scale = deviations_within(self._data) if self.scale else self._data[0].new_ones(self.n_features_in_)
        if self.scale:
            self._data = [table / self._scale for table in self._data]
        self._check_directions()
        self._components = [self._analyse(table[None], self.restarts) for table in self._data]
        self._alignment = align(torch.stack([part.unmixing[0] for part in self._components])[None])
        self._publish()
        self._warn()
        return self

    def transform(self, X: Any) -> Any:
        """Return the factors `(samples, components)` of a table, or of each table of a mapping."""
        check_is_fitted(self)
        if isinstance(X, Mapping) and not issparse(X):
            # scikit-learn would make one container of all of them.
            if getattr(self, "_sklearn_output_config", {}).get("transform", "default") != "default":
                raise DataError("set_output is for one table.", hint="Transform the tables one by one.")
            return {name: self.transform(table) for name, table in X.items()}
        return Kind.of(X).give(matrix(X, self, reset=False) @ _near(X, self._unmixing).mT)

    def inverse_transform(self, Z: Any) -> Any:
        """Return the features `(samples, features)` that factors stand for.

        Raises:
            DataError: Not a table of finite numbers with as many columns as there are factors.
        """
        check_is_fitted(self)
        if isinstance(Z, Mapping):
            return {name: self.inverse_transform(table) for name, table in Z.items()}
        factors = table_of(Z, "Z", columns=self.n_components, of="factors")
        return Kind.of(Z).give(factors @ _near(Z, self._mixing).mT)

    def weights(self, domain: Any) -> Any:
        """Return how the domain's independent noises make its factors, `B_k^{-1}`, `(components, components)`."""
        triangular = self._triangular(domain)
        return self._kind.give(torch.linalg.inv(triangular))

    def adjacency(self, domain: Any) -> Any:
        """Return the direct effects between factors in a domain: entry `[i, j]` is the effect of factor i on factor j.

        Factors are scaled as `unmixing_` gives them, so an effect is in units of factor j for a unit of factor i. It is
        that between these representatives: with `t` times factor i added to factor j, which is as good (`ambiguity`),
        it is greater by `t` in every domain. What does not depend on that is how effects differ between domains.
        """
        triangular = self._triangular(domain)
        return self._kind.give(adjacency_of(triangular))

    def noise_covariance(self, domain: Any) -> Any:
        """Return the covariance of the noise that the model infers in a domain; the identity when it is exact."""
        index = self._index(domain)
        explained = self._triangular(domain) @ self._alignment.unmixing[0]  # both as scaled
        overlap = explained @ torch.linalg.pinv(self._components[index].unmixing[0])
        return self._kind.give(overlap @ overlap.mT)

    def graph(self) -> Any:
        """Return the mean over the domains of `adjacency`, `(components, components)`."""
        check_is_fitted(self)
        return self._kind.give(adjacency_of(self._alignment.triangular[0]).mean(dim=0))

    def ambiguity(self, factor: int) -> Any:
        """Return the directions that a factor may absorb: the rows of `unmixing_` upstream of it, `(i, features)`.

        Raises:
            UnknownName: There is no such factor.
        """
        check_is_fitted(self)
        if factor not in range(self.n_components):
            raise UnknownName.of("factor", str(factor), map(str, range(self.n_components)))
        return self._kind.give(self._unmixing[:factor])

    def explained_by_factors(self) -> Any:
        """Return how much more of each feature's variance is explained by a factor than by those upstream of it.

        R2 within domains, `(components, features)`. It does not depend on the representative of a factor, so it can
        give a factor its name; rows add up to what all factors explain.
        """
        check_is_fitted(self)
        centred = torch.cat([table - table.mean(dim=0) for table in self._data])
        factors = centred @ self._alignment.unmixing[0].mT
        total = centred.square().sum(dim=0)
        shares = [torch.zeros_like(total)]
        for count in range(1, factors.shape[1] + 1):
            rest = centred - factors[:, :count] @ torch.linalg.lstsq(factors[:, :count], centred).solution
            shares.append(1 - rest.square().sum(dim=0) / total)
        return self._kind.give(torch.stack(shares).diff(dim=0))

    def subsets(self, minimum: int = 4) -> dict[tuple[Any, ...], float]:
        """Return the MIC of every subset of at least `minimum` domains, the smallest first.

        The smallest of many is small by selection: compare it with the same search on shuffled tables,
        `null_test(minimum=...)`.
        """
        check_is_fitted(self)
        rows = torch.stack([part.unmixing[0] for part in self._components])
        found = {
            tuple(self.domains_[index] for index in chosen): float(align(rows[list(chosen)][None]).mic)
            for chosen in subsets_of(len(self.domains_), max(2, minimum))
        }
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def bootstrap(self, draws: int = 200, *, restarts: int = 3) -> Bootstrap:
        """Return MIC, inexactness and effects when the rows of each domain are drawn anew; see `Bootstrap`.

        Raises:
            ConfigError: No draw is asked for.
        """
        check_is_fitted(self)
        found = bootstrap(self._data, self._alignment, draws, self._fit_many(restarts), self._generator("bootstrap"))
        return Bootstrap(
            self._kind.give(found.mic),
            self._kind.give(found.inexactness),
            self._kind.give(found.adjacency),
            self._kind.give(found.unmixing / self._scale if self.scale else found.unmixing),
            self._kind.give(found.same_order),
        )

    def null_test(
        self, kind: str = "shuffle_domains", draws: int = 200, *, restarts: int = 3, minimum: int | None = None
    ) -> NullTest:
        """Compare the MIC with what the same search finds where no order is shared; see `NullTest`.

        Args:
            kind: Which null.
            draws: Tables that are drawn.
            restarts: Random starts of each component analysis.
            minimum: None for the MIC of all domains; a number for the smallest MIC of all subsets of at least so many
                domains (see `subsets`), in every draw as in the fit: what a chosen subset is to be compared with.

        Raises:
            UnknownName: There is no such kind of null.
            ConfigError: No draw is asked for, or `minimum` is not between 2 and the number of domains.
        """
        check_is_fitted(self)
        found = null_test(
            kind,
            self._data,
            self._alignment,
            draws,
            self._fit_many(restarts),
            self._generator("null", kind),
            minimum=minimum,
        )
        return replace(found, mic=self._kind.give(found.mic), variation=self._kind.give(found.variation))

    # Parts of `fit` ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        for name, least in (("n_components", 1), ("restarts", 1), ("max_iter", 1), ("variation_draws", 0)):
            given: Any = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, Integral) or int(given) < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, given {given!r}.")
        for name in ("tol", "subspace_tolerance"):
            value: Any = getattr(self, name)
            if isinstance(value, str) or not value >= 0 or (name == "tol" and value == 0):
                raise ConfigError(f"{name} must be a positive number, given {value!r}.")
        if self.scale not in (None, "standard"):
            raise UnknownName.of("scale", str(self.scale), ("standard",))

    def _tables(self, X: Any, y: Any) -> tuple[dict[Any, Tensor], Kind]:
        """Return the tables by domain, on one device."""
        if isinstance(X, DomainTable):
            tables, kind = self._tables(X.domains, y)
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
            return tables, kind
        if isinstance(X, Mapping) and not issparse(X):  # a sparse matrix by keys is a mapping as well
            if y is not None:
                raise DataError("Both tables by domain and labels were given.", hint="Leave y out.")
            if not X:
                raise DataError("There is no domain.", hint="Give a mapping from names to tables.")
            tables = {
                name: matrix(table, self, name=f"domain {name!r}", reset=index == 0)
                for index, (name, table) in enumerate(X.items())
            }
            return tables, Kind.of(next(iter(X.values())))
        if y is None:
            raise DataError(
                "requires y to be passed, but the target y is None: it holds the domain of each row.",
                hint="Write fit({'domain': table, ...}), or fit(table, labels).",
            )
        table = matrix(X, self, rows=2)
        labels = domain_labels(y, len(table))
        names = sorted(set(labels), key=str)
        where = torch.tensor([names.index(label) for label in labels], device=table.device)
        return {name: table[where == index] for index, name in enumerate(names)}, Kind.of(X)

    def _check_tables(self) -> None:
        if len(self._data) < 2:
            raise DataError(
                f"There is one domain, {self.domains_[0]!r}; what domains share needs two or more.",
                hint="Give the domain of each row.",
            )
        if self.n_components > self.n_features_in_:
            raise DataError(
                f"n_components={self.n_components} for {self.n_features_in_} features.", hint="Ask for fewer factors."
            )
        for name, table in zip(self.domains_, self._data, strict=True):
            if len(table) <= self.n_components:
                raise DataError(
                    f"Domain {name!r} has {len(table)} row{'s' * (len(table) > 1)}; {self.n_components} factors need "
                    "more than that, and about a hundred to be known well.",
                    hint="Leave the domain out, or ask for fewer factors.",
                )
            constant = (table == table[0]).all(dim=0).nonzero().flatten().tolist()
            if constant:
                names = getattr(self, "feature_names_in_", None)
                which = constant if names is None else ", ".join(repr(str(names[column])) for column in constant)
                raise DataError(f"Domain {name!r}: columns {which} are constant.", hint="Leave them out.")
        check_size(len(self._data), self.n_components)  # before minutes of component analyses

    def _check_directions(self) -> None:
        for name, table in zip(self.domains_, self._data, strict=True):
            share = spectrum(table)
            rank = int((share >= 1e-12).sum())
            if rank < self.n_components:
                raise DataError(
                    f"Domain {name!r} varies in {rank} direction{'s' * (rank > 1)}, fewer than {self.n_components} "
                    "directions, one for each factor: columns depend on one another.",
                    hint=f"Ask for at most {rank} factors, or leave the domain out.",
                )

    def _analyse(self, tables: Tensor, restarts: int) -> Components:
        return independent_components(
            tables,
            self.n_components,
            generator=self._generator("components"),
            restarts=restarts,
            max_iter=self.max_iter,
            tol=self.tol,
        )

    def _fit_many(self, restarts: int) -> Any:
        """Return a function from tables `(draws, samples, features)` of each domain to their alignments."""

        def fit_many(tables: Sequence[Tensor]) -> Alignment:
            return align(torch.stack([self._analyse(table, restarts).unmixing for table in tables], dim=1))

        return fit_many

    def _publish(self) -> None:
        """Set the public attributes, in the caller's kind of array."""
        give, names = self._kind.give, self.domains_
        scaled = self._alignment.unmixing[0]
        self._unmixing = scaled / self._scale if self.scale else scaled
        self._mixing = (scaled * self._scale if self.scale else scaled).mT.contiguous()
        self._n_features_out = self.n_components
        self.scale_ = give(self._scale)
        self.unmixing_ = give(self._unmixing)
        self.mixing_ = give(self._mixing)
        self.triangular_ = dict(zip(names, map(give, self._alignment.triangular[0]), strict=True))
        self.components_ = {
            name: give(part.unmixing[0] / self._scale if self.scale else part.unmixing[0])
            for name, part in zip(names, self._components, strict=True)
        }
        self.inexactness_ = dict(zip(names, self._alignment.inexactness[0].tolist(), strict=True))
        self.mic_ = float(self._alignment.mic)
        self.spectrum_ = {name: give(spectrum(table)) for name, table in zip(names, self._data, strict=True)}
        self.subspace_distance_ = give(distances(self._data, self.n_components))
        self.converged_ = {name: bool(part.converged) for name, part in zip(names, self._components, strict=True)}
        self.n_iter_ = max(int(part.iterations) for part in self._components)
        self.non_gaussian_ = {
            name: self._gaussian_p_value(part, len(table))
            for name, part, table in zip(names, self._components, self._data, strict=True)
        }
        self.variation_ = give(self._alignment.variation[0])

    def _gaussian_p_value(self, part: Components, samples: int) -> float:
        """Return how often noise has a second weakest component at least this far from Gaussian; 0 for one component.

        At most one source may be Gaussian, so the second weakest one is the one that must not be.
        """
        if self.n_components == 1:
            return 0.0
        noise = gaussian_negentropy(min(samples, 1000), self.n_components, generator=self._generator("noise"))
        # Negentropy is the square of a deviation that shrinks with the root of the rows; large domains are compared so.
        noise = noise[:, -2] * (min(samples, 1000) / samples)
        return (1 + int((noise >= float(part.negentropy[0, -2])).sum())) / (1 + len(noise))

    def _warn(self) -> None:
        for name in self.domains_:
            if not self.converged_[name]:
                warnings.warn(
                    f"Domain {name!r}: none of {self.restarts} starts of the component analysis converged in "
                    f"{self.max_iter} iterations; raise max_iter or restarts.",
                    ConvergenceWarning,
                    stacklevel=3,
                )
            if (p := self.non_gaussian_[name]) > 0.05:
                warnings.warn(
                    f"Domain {name!r}: two or more of its components are as Gaussian as noise (p = {p:.2f}); its rows "
                    "of the analysis are arbitrary, and a small MIC would mean nothing.",
                    DataWarning,
                    stacklevel=3,
                )
        far = torch.as_tensor(self.subspace_distance_)
        if float(far.max()) > self.subspace_tolerance:
            one, other = divmod(int(far.argmax()), len(far))
            warnings.warn(
                f"The principal subspaces of {self.domains_[one]!r} and {self.domains_[other]!r} are "
                f"{float(far.max()):.2f} apart (subspace_tolerance = {self.subspace_tolerance}): they share no mixing. "
                "invariant_domains(...) chooses domains that may.",
                DataWarning,
                stacklevel=3,
            )
        self._warn_about_variation()

    def _warn_about_variation(self) -> None:
        """Domains that are all alike fit any order exactly, so that a small MIC is no evidence (see `NullTest`)."""
        if not self.variation_draws or self.n_components == 1:
            return
        shuffled = self.null_test("shuffle_domains", self.variation_draws, restarts=2)
        alike = [i for i in range(1, self.n_components) if shuffled.variation_p_value[i] > 0.05]
        if alike:
            words = ", ".join(f"{float(torch.as_tensor(self.variation_)[i]):.3f} of factor {i}" for i in alike)
            warnings.warn(
                f"Domains do not differ enough to tell their order: variation {words} is no more than shuffled tables "
                "have. Any order fits domains that are alike, so a small MIC is no evidence for this one.",
                DataWarning,
                stacklevel=4,
            )

    # Small helpers ----------------------------------------------------------------------------------------------------

    def _generator(self, *path: str) -> torch.Generator:
        return generator(self.random_state, "hca", *path)

    def _index(self, domain: Any) -> int:
        check_is_fitted(self)
        if domain not in self.domains_:
            raise UnknownName.of("domain", str(domain), map(str, self.domains_))
        return self.domains_.index(domain)

    def _triangular(self, domain: Any) -> Tensor:
        return self._alignment.triangular[0, self._index(domain)]


def _near(like: Any, table: Tensor) -> Tensor:
    """Return a table on the device of what is to be multiplied by it, the CPU for numpy."""
    return table.to(like.device) if isinstance(like, Tensor) else table.cpu()
