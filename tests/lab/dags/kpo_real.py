"""For real containers only: the conf's `template` is the Pod around the work, its `image` another one, logs are read."""

from __future__ import annotations

from _kpo import kpo, kpo_dag

with kpo_dag("kpo_real", params={"image": "", "template": {}}):
    kpo(
        image="{{ params.image or 'registry.example.com/team/etl:1.2.3' }}",
        pod_template_dict="{{ params.template }}",
        get_logs=True,
    )
