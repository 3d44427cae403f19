{{- define "stoker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "stoker.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "stoker.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "stoker.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of everything. Call with (list $ "component"). */}}
{{- define "stoker.labels" -}}
{{- $root := index . 0 -}}
{{ include "stoker.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: stoker
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "stoker.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "stoker.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Reference of an image. Call with (list $ .Values.controller.image "stoker-controller"). */}}
{{- define "stoker.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := default (printf "%s/%s" $root.Values.image.registry (index . 2)) $image.repository -}}
{{- $tag := coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion -}}
{{- if $image.digest -}}
{{- printf "%s:%s@%s" $repository $tag $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{/* What passes the Pod Security Standard "restricted". */}}
{{- define "stoker.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- with .Values.podSecurityContext.runAsUser }}
runAsUser: {{ . }}
{{- end }}
{{- with .Values.podSecurityContext.runAsGroup }}
runAsGroup: {{ . }}
{{- end }}
{{- end -}}

{{- define "stoker.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods of a component run. Call with (list $ .Values.controller "controller"). */}}
{{- define "stoker.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "stoker.selector" (list $root (index . 2)) | nindent 8 }}
{{- end -}}

{{- define "stoker.webhook.host" -}}
{{ printf "%s-webhook.%s.svc" (include "stoker.fullname" .) .Release.Namespace }}
{{- end -}}

{{/* Secret with the certificate of the webhook. */}}
{{- define "stoker.webhook.secret" -}}
{{- if eq .Values.webhook.certificate.mode "existingSecret" -}}
{{- required "webhook.certificate.existingSecret.name is needed with mode existingSecret" .Values.webhook.certificate.existingSecret.name -}}
{{- else -}}
{{- printf "%s-webhook-certificate" (include "stoker.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The rules of the controller in the namespaces that it looks after. */}}
{{- define "stoker.controller.rules" -}}
- apiGroups: [stoker.io]
  resources: [stokers, syncprofiles]
  verbs: [get, list, watch]
# Annotations by deliveries, and the finalizer.
- apiGroups: [stoker.io]
  resources: [stokers]
  verbs: [patch]
- apiGroups: [stoker.io]
  resources: [stokers/status, syncprofiles/status]
  verbs: [patch]
# Needed by owner references where the cluster checks them (OpenShift).
- apiGroups: [stoker.io]
  resources: [stokers/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
# By name, when a Stoker names one; never listed, never watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# The agents' rights: nobody can hand out what he has not got, so these stay within this very list.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "stoker.webhook.rules" -}}
- apiGroups: [stoker.io]
  resources: [stokers]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "stoker.release.rules" -}}
- apiGroups: [stoker.io]
  resources: [stokers]
  verbs: [list, patch]
{{- end -}}

{{/*
Grants rules to a service account: in the whole cluster, or in each of the namespaces. Call with
(dict "root" $ "name" "stoker-controller" "component" "controller" "rules" "stoker.controller.rules" "annotations" dict).
*/}}
{{- define "stoker.grant" -}}
{{- $root := .root -}}
{{- if $root.Values.namespaces }}
{{- range $namespace := $root.Values.namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $.name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "stoker.labels" (list $root $.component) | nindent 4 }}
  {{- with $.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
rules:
  {{- include $.rules $root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "stoker.labels" (list $root $.component) | nindent 4 }}
  {{- with $.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $.name }}
subjects:
  - kind: ServiceAccount
    name: {{ $.name }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- else }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels:
    {{- include "stoker.labels" (list $root .component) | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
rules:
  {{- include .rules $root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "stoker.labels" (list $root .component) | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- end -}}
