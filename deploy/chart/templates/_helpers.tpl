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

{{- define "kpo-healer.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kpo-healer.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kpo-healer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kpo-healer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
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

{{- define "kpo-healer.election" -}}
{{- $election := default dict .Values.config.leaderElection -}}
{{- $enabled := not (and (hasKey $election "enabled") (eq $election.enabled false)) -}}
{{- dict "enabled" $enabled "namespace" (default .Release.Namespace $election.namespace) | toJson -}}
{{- end -}}

{{/*
What is granted by namespace, as JSON: delete (an Airflow there enforces), logs (one there keeps the log lines of what it deletes), and the
stamps that a Pod must carry to be deleted there; none where an enforcing Airflow owns all Pods.
*/}}
{{- define "kpo-healer.grants" -}}
{{- $grants := dict -}}
{{- $global := default "report" .Values.config.mode -}}
{{- range $airflow := .Values.config.airflows -}}
  {{- $enforces := eq (default $global $airflow.mode) "enforce" -}}
  {{- $stamped := eq (default "" $airflow.ownership) "stamped" -}}
  {{- $postMortem := default dict $airflow.postMortem -}}
  {{- $logs := and $enforces $postMortem.enabled (not (and (hasKey $postMortem "logLines") (eq (int $postMortem.logLines) 0))) -}}
  {{- range $namespace := $airflow.namespaces -}}
    {{- $grant := default (dict "delete" false "logs" false "exclusive" false "stamps" (list)) (get $grants $namespace) -}}
    {{- $stamps := ternary (append $grant.stamps $airflow.name) $grant.stamps (and $enforces $stamped) -}}
    {{- $_ := set $grants $namespace (dict
        "delete" (or $grant.delete $enforces)
        "logs" (not (not (or $grant.logs $logs)))
        "exclusive" (or $grant.exclusive (and $enforces (not $stamped)))
        "stamps" $stamps) -}}
  {{- end -}}
{{- end -}}
{{- toJson $grants -}}
{{- end -}}
