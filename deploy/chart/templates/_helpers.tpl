{{- define "kpo-healer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kpo-healer.fullname" -}}
{{- $name := include "kpo-healer.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The Service that has an address for each replica. */}}
{{- define "kpo-healer.headless" -}}
{{- printf "%s-headless" (include "kpo-healer.fullname" . | trunc 54 | trimSuffix "-") -}}
{{- end -}}

{{- define "kpo-healer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kpo-healer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kpo-healer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kpo-healer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kpo-healer.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kpo-healer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: without serviceAccount.create name the account that is there" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "kpo-healer.serviceAccountName" . }}
{{- end -}}

{{- define "kpo-healer.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Empty if there is none. */}}
{{- define "kpo-healer.secretName" -}}
{{- if .Values.secret.existingSecret -}}
{{ .Values.secret.existingSecret }}
{{- else if .Values.secret.data -}}
{{ include "kpo-healer.fullname" . }}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.port" -}}
{{- default ":8080" .Values.config.listen | splitList ":" | last -}}
{{- end -}}

{{/* By which Lease the replicas of this release agree: its own, as other releases in the namespace look after other Airflows. */}}
{{- define "kpo-healer.election" -}}
{{- $election := default dict .Values.config.leaderElection -}}
{{- $enabled := ne (toString (get $election "enabled")) "false" -}}
{{- dict "enabled" $enabled "name" (default (include "kpo-healer.fullname" .) $election.name) "namespace" (default .Release.Namespace $election.namespace) | toJson -}}
{{- end -}}

{{/* Whether the history is kept in a ConfigMap, beside the Lease and called after it; empty if not. */}}
{{- define "kpo-healer.savesHistory" -}}
{{- if and (eq (toString .Values.config.history) "configMap") (not .Values.cronJob.enabled) -}}yes{{- end -}}
{{- end -}}

{{/* The configuration file: what the user has set, and the name of the release's own Lease. */}}
{{- define "kpo-healer.config" -}}
{{- $election := include "kpo-healer.election" . | fromJson -}}
{{- $named := merge (dict "name" $election.name) (default dict .Values.config.leaderElection) -}}
{{- toYaml (merge (dict "leaderElection" $named) .Values.config) -}}
{{- end -}}

{{/* What holds of a namespace that an entry of `namespaces` stands for, as CEL: a pattern finds no reserved name that it does not begin with. */}}
{{- define "kpo-healer.covers" -}}
{{- if contains "*" . -}}
request.namespace.matches("^{{ replace "*" "[-a-z0-9]*" . }}$")
{{- if not (regexMatch "^(kube|openshift)-" .) }} && !request.namespace.matches("^(kube|openshift)-"){{ end }}
{{- else -}}
request.namespace == {{ quote . }}
{{- end -}}
{{- end -}}

{{/* The names that an Airflow has for itself though a `pattern` fits them, as a JSON array: an exact name wins where the two can't share it. */}}
{{- define "kpo-healer.lost" -}}
{{- $lost := list -}}
{{- $form := printf "^%s$" (replace "*" "[-a-z0-9]*" .pattern) -}}
{{- range $airflow := ternary .airflows (list) (contains "*" .pattern) -}}
  {{- $whole := not (or (kindIs "map" $airflow.ownership) (eq (toString $airflow.ownership) "stamped")) -}}
  {{- range $airflow.namespaces -}}
    {{- if and (not (contains "*" .)) (or $whole $.exclusive) (regexMatch $form .) -}}{{- $lost = append $lost . -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- $lost | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* Whether any namespace is a pattern; empty if none is. */}}
{{- define "kpo-healer.patterns" -}}
{{- range .Values.config.airflows -}}{{- range .namespaces -}}{{- if contains "*" . -}}yes{{- end -}}{{- end -}}{{- end -}}
{{- end -}}

{{/*
What is granted by namespace and pattern, as JSON: delete (an Airflow there enforces), logs (one there keeps the log lines of what it deletes), and the
labels of which a Pod must carry one to be deleted there; none where an enforcing Airflow owns all Pods.
*/}}
{{- define "kpo-healer.grants" -}}
{{- $grants := dict -}}
{{- $global := default "report" .Values.config.mode -}}
{{- range $airflow := .Values.config.airflows -}}
  {{- $enforces := eq (default $global $airflow.mode) "enforce" -}}
  {{- $labelled := kindIs "map" $airflow.ownership -}}
  {{- $stamped := or $labelled (eq (toString $airflow.ownership) "stamped") -}}
  {{- $stamp := dict "key" "kpo-healer.io/airflow" "value" $airflow.name -}}
  {{- if $labelled -}}{{- $stamp = dict "key" $airflow.ownership.label "value" $airflow.ownership.value -}}{{- end -}}
  {{- $postMortem := default dict $airflow.postMortem -}}
  {{- $logs := and $enforces $postMortem.enabled (not (and (hasKey $postMortem "logLines") (eq (int $postMortem.logLines) 0))) -}}
  {{- range $namespace := $airflow.namespaces -}}
    {{- $grant := default (dict "delete" false "logs" false "exclusive" false "stamps" (list)) (get $grants $namespace) -}}
    {{- $stamps := ternary (append $grant.stamps $stamp) $grant.stamps (and $enforces $stamped) -}}
    {{- $_ := set $grants $namespace (dict
        "delete" (or $grant.delete $enforces)
        "logs" (not (not (or $grant.logs $logs)))
        "exclusive" (or $grant.exclusive (and $enforces (not $stamped)))
        "stamps" $stamps) -}}
  {{- end -}}
{{- end -}}
{{- toJson $grants -}}
{{- end -}}

{{/* The alerts as Prometheus has them. */}}
{{- define "kpo-healer.alerts" -}}
{{- .Files.Get "files/alerts.yaml" -}}
{{- end -}}
