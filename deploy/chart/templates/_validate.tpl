{{/* What no schema can say. Each sentence tells what to do. */}}
{{- define "kpo-healer.validate" -}}
{{- if not .Values.config.airflows -}}
{{- fail "config.airflows: is empty: describe at least one Airflow (values.yaml has an example)" -}}
{{- end -}}
{{- include "kpo-healer.validate.mode" . -}}
{{- include "kpo-healer.validate.namespaces" . -}}
{{- include "kpo-healer.validate.login" . -}}
{{- include "kpo-healer.validate.replicas" . -}}
{{- include "kpo-healer.validate.admission" . -}}
{{- include "kpo-healer.validate.monitoring" . -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" (default ":8080" .Values.config.listen) -}}
{{- fail "config.listen: the kubelet can't reach its own probes there: leave the host away, as :8080" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.mode" -}}
{{- range $index, $airflow := .Values.config.airflows -}}
  {{- $mode := default (default "report" $.Values.config.mode) $airflow.mode -}}
  {{- if and (eq $mode "enforce") (not $airflow.ownership) -}}
    {{- fail (printf "config.airflows[%d].ownership: enforce mode needs it, the healer would not start: set exclusive if every KubernetesPodOperator Pod in its namespaces is this Airflow's, stamped if only labelled ones are" $index) -}}
  {{- end -}}
  {{- $policy := default dict $airflow.policy -}}
  {{- $actions := default dict $policy.actions -}}
  {{- if and $.Values.cronJob.enabled (not $policy.absentGrace) (or (eq (default "" (get $actions "run-deleted")) "delete") (eq (default "" (get $actions "task-removed")) "delete") (eq (default "" (get $actions "purged")) "delete")) -}}
    {{- fail (printf "config.airflows[%d].policy.absentGrace: a CronJob never waits for its default, so that run-deleted, task-removed and purged Pods would never be deleted: set it to at most grace, or use the Deployment" $index) -}}
  {{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
  {{- if eq (default "" .name) "KPO_HEALER_MODE" -}}
    {{- fail "extraEnv: KPO_HEALER_MODE would not change the rights of the account: set config.mode instead" -}}
  {{- end -}}
  {{- if eq (default "" .name) "KPO_HEALER_LISTEN" -}}
    {{- fail "extraEnv: KPO_HEALER_LISTEN would not change the port of probes and Service: set config.listen instead" -}}
  {{- end -}}
{{- end -}}
{{- range .Values.extraArgs -}}
  {{- if regexMatch "^--mode(=|$)" . -}}
    {{- fail "extraArgs: --mode would not change the rights of the account: set config.mode instead" -}}
  {{- end -}}
  {{- if regexMatch "^--listen(=|$)" . -}}
    {{- fail "extraArgs: --listen would not change the port of probes and Service: set config.listen instead" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.cronJob.enabled .Values.config.findings -}}
{{- fail "config.findings: a CronJob serves nothing, its answers are in its log: leave it away, or use the Deployment" -}}
{{- end -}}
{{- if and .Values.cronJob.enabled (eq (toString .Values.config.history) "configMap") -}}
{{- fail "config.history: a CronJob keeps none, its deletions are in its log: leave it away, or use the Deployment" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.namespaces" -}}
{{- $wide := ne (toString .Values.rbac.clusterWide) "false" -}}
{{- if and .Values.rbac.create (include "kpo-healer.patterns" .) (not $wide) -}}
{{- fail "rbac.clusterWide: a pattern among the namespaces needs rights beyond single namespaces: set it to true, or to namespaces and bind the rights on Pods in each one yourself, or name every namespace" -}}
{{- end -}}
{{- if and $wide (not (include "kpo-healer.patterns" .)) -}}
{{- fail "rbac.clusterWide: nothing needs it, as no namespace is a pattern like team-*: leave it false" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.login" -}}
{{- if and .Values.secret.existingSecret .Values.secret.data -}}
{{- fail "secret: existingSecret and data exclude each other: set one" -}}
{{- end -}}
{{- $listen := .Values.config.listenTokenFile | default "" -}}
{{- if hasPrefix "/etc/kpo-healer/secret/" $listen -}}
  {{- if not (include "kpo-healer.secretName" .) -}}
    {{- fail "config.listenTokenFile: there is no Secret with this file: set secret.existingSecret or secret.data" -}}
  {{- else if and .Values.secret.data (not (hasKey .Values.secret.data (base $listen))) -}}
    {{- fail (printf "config.listenTokenFile: secret.data has no key %s" (base $listen)) -}}
  {{- end -}}
{{- end -}}
{{- range $index, $airflow := .Values.config.airflows -}}
  {{- range $key := list "password" "token" -}}
    {{- if get $airflow $key -}}
      {{- fail (printf "config.airflows[%d].%s: would stand in a ConfigMap for many to read: put it into a Secret and use %sFile" $index $key $key) -}}
    {{- end -}}
  {{- end -}}
  {{- range $key := list "passwordFile" "tokenFile" "cookieFile" "clientSecretFile" "headersFile" "certFile" "keyFile" "caFile" -}}
    {{- $file := get $airflow $key | default "" -}}
    {{- if and (hasPrefix "/etc/kpo-healer/secret/" $file) (not (include "kpo-healer.secretName" $)) -}}
      {{- fail (printf "config.airflows[%d].%s: there is no Secret with this file: set secret.existingSecret or secret.data" $index $key) -}}
    {{- end -}}
    {{- if and $.Values.secret.data (hasPrefix "/etc/kpo-healer/secret/" $file) (not (hasKey $.Values.secret.data (base $file))) -}}
      {{- fail (printf "config.airflows[%d].%s: secret.data has no key %s" $index $key (base $file)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.cronJob.enabled .Values.extraContainers -}}
{{- fail "extraContainers: a CronJob's Pod ends only when all of them have: write it into initContainers with restartPolicy: Always, which ends with the healer" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.replicas" -}}
{{- $election := include "kpo-healer.election" . | fromJson -}}
{{- if and (not $election.enabled) (gt (int .Values.replicaCount) 1) -}}
{{- fail "replicaCount: with config.leaderElection.enabled false nothing keeps two replicas from acting at once: set it to 1" -}}
{{- end -}}
{{- if and (not $election.enabled) (ne (default "Recreate" .Values.strategy.type) "Recreate") -}}
{{- fail "strategy.type: with config.leaderElection.enabled false an old and a new Pod would act side by side: leave it away" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.admission" -}}
{{- $labels := .Values.admissionPolicy.labels -}}
{{- if or .Values.admissionPolicy.delete.enabled $labels.enabled -}}
{{- if semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "admissionPolicy: needs Kubernetes 1.30 or newer, this is %s: disable it" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and $labels.enabled (not (or $labels.users $labels.groups)) -}}
{{- fail "admissionPolicy.labels: nobody could start a task's Pod any more: name Airflow's own accounts in users or groups" -}}
{{- end -}}
{{- end -}}

{{/* A name that no alert has would change nothing, and nobody would know. */}}
{{- define "kpo-healer.validate.monitoring" -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics: serviceMonitor and podMonitor would scrape each replica twice: enable one" -}}
{{- end -}}
{{- range $key, $wanted := dict "metrics.serviceMonitor" .Values.metrics.serviceMonitor "metrics.podMonitor" .Values.metrics.podMonitor "prometheusRule" .Values.prometheusRule "grafanaDashboard" .Values.grafanaDashboard -}}
  {{- if and $.Values.cronJob.enabled $wanted.enabled -}}
    {{- fail (printf "%s: a CronJob serves no metrics, kube-state-metrics knows of its Jobs: leave it away, or use the Deployment" $key) -}}
  {{- end -}}
{{- end -}}
{{- $alerts := list -}}
{{- range (include "kpo-healer.alerts" . | fromYaml).groups -}}
  {{- range .rules -}}{{- $alerts = append $alerts .alert -}}{{- end -}}
{{- end -}}
{{- $given := .Values.prometheusRule -}}
{{- range $key, $names := dict "disabled" $given.disabled "severities" (keys (default dict $given.severities)) "overrides" (keys (default dict $given.overrides)) -}}
  {{- range $names -}}
    {{- if not (has . $alerts) -}}
      {{- fail (printf "prometheusRule.%s: there is no alert %s: files/alerts.yaml has their names" $key .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
