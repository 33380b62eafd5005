{{/* The labels of every object. */}}
{{- define "lazaretto.labels" -}}
{{ include "lazaretto.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects our pods. Never changes: a Deployment's selector cannot. */}}
{{- define "lazaretto.selector" -}}
app.kubernetes.io/name: lazaretto
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lazaretto.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The user name of our ServiceAccount, as the guard sees it. */}}
{{- define "lazaretto.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:lazaretto
{{- end }}

{{/* Where the admin server listens. */}}
{{- define "lazaretto.adminAddress" -}}
{{ .Values.admin.bindAddress | default (ternary "127.0.0.1" .Values.webhook.bindAddress .Values.hostNetwork) }}
{{- end }}

{{/* "true" when the admin server listens on the loopback interface only. */}}
{{- define "lazaretto.adminLocal" -}}
{{ has (include "lazaretto.adminAddress" .) (list "127.0.0.1" "[::1]") }}
{{- end }}

{{/* The namespaces that are never judged, our own among them. */}}
{{- define "lazaretto.excludedNamespaces" -}}
{{ append .Values.excludedNamespaces .Release.Namespace | uniq | sortAlpha | join "," }}
{{- end }}
